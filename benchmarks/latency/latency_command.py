"""``python -m benchmarks.latency``: runtimes and quantizers side by side on this CPU."""

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import typer

from benchmarks.environment import describe_environment
from benchmarks.latency.roster import BASELINE, Setting, prepare_contestants
from benchmarks.latency.rows import measure_latency
from benchmarks.latency.table import draw_table, pair_ratios
from benchmarks.sample import CHECKPOINT, TRAIN, VALIDATION
from benchmarks.timing import CLOCKS
from benchmarks.workload import Workload, parse_shapes_list
from qat.batches import find_pad
from qat.checkpoint import load_checkpoint
from qat.console import print_json, say, show_progress
from qat.tasks import find_task

app = typer.Typer(name="latency", pretty_exceptions_enable=False, help="Latency on this CPU, side by side.")


@app.command()
def latency_command(
    checkpoint: Annotated[Path, typer.Option("--checkpoint", help="Float Hugging Face folder.")] = CHECKPOINT,
    task: Annotated[str, typer.Option("--task", help="Task, as Hugging Face names it.")] = "text-classification",
    data: Annotated[Path, typer.Option("--data", help="Rows to calibrate on.")] = TRAIN,
    texts: Annotated[int, typer.Option("--texts", min=1, help="How many rows calibrate.")] = 256,
    shapes: Annotated[str, typer.Option("--shapes", help="BATCHxSEQUENCE list.")] = "1x32,1x128,8x128,32x128",
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="Time for one shape, at least 4 rounds.")] = 20.0,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of every runtime.")] = 1,
    nncf: Annotated[
        list[Path] | None, typer.Option("--nncf", help="A model.xml of python -m benchmarks.peers --keep.")
    ] = None,
    clock: Annotated[
        Literal["wall", "processor"],
        typer.Option("--clock", help="processor: processor time of all threads, for a busy machine."),
    ] = "wall",
) -> None:
    """Time ONNX Runtime and OpenVINO in float, with their own quantizers and with ours, in alternation.

    Example: python -m benchmarks.latency --checkpoint my-bert --data train.jsonl --clock processor
    """
    pairs = parse_shapes_list(shapes)
    setting = Setting(checkpoint=checkpoint, task=task, data=data, texts=texts, nncf=tuple(nncf or ()), threads=threads)
    with TemporaryDirectory() as folder, ExitStack() as stack:
        contestants = prepare_contestants(setting, Path(folder), progress=say)
        tokenizer = load_checkpoint(checkpoint, find_task(task)).tokenizer
        rows = find_task("text-classification").load(VALIDATION, columns={}, limit=1024)
        tokens = tokenizer([str(row["text"]) for row in rows], truncation=True)["input_ids"]
        pad = find_pad(tokenizer)
        advance = stack.enter_context(show_progress("time"))
        measured = measure_latency(
            [stack.enter_context(each.runner) for each in contestants],
            [Workload(batch, sequence, pad_id=pad) for batch, sequence in pairs],
            tokens,
            seconds=seconds,
            clock=CLOCKS[clock],
            progress=advance,
        )
    ratios = pair_ratios([each.name for each in contestants], measured)
    environment = describe_environment()
    facts = {each.name: (each.runner.precision, each.int8_kernels) for each in contestants}
    say(f"CPU: {environment['cpu']}")
    typer.echo(f"times faster than {BASELINE}, {clock} clock, {threads} thread(s), median of pairs")
    typer.echo(draw_table(ratios, facts))
    print_json({
        "checkpoint": checkpoint.name,
        "clock": clock,
        "threads": threads,
        "contestants": {name: {"precision": each, "int8_kernels": kernels} for name, (each, kernels) in facts.items()},
        "ratios": [asdict(each) for each in ratios],
        "environment": environment,
    })  # fmt: skip
