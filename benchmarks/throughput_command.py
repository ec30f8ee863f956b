"""``python -m benchmarks.throughput``: its options, its table, its JSON."""

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import torch
import typer

from benchmarks.environment import describe_environment
from benchmarks.latency.roster import Contestant, Setting, prepare_contestants
from benchmarks.sample import CHECKPOINT, TRAIN, VALIDATION
from benchmarks.throughput_passes import ORDERS, share_padding, time_passes
from benchmarks.timing import CLOCKS, time_paired
from export.runners.torch_runner import TorchRunner
from qat.artefacts import require_writable, write_json
from qat.checkpoint import load_checkpoint
from qat.console import print_json, print_table, say
from qat.options import LimitOption
from qat.scoring import Batching
from qat.tasks import find_task

app = typer.Typer(name="throughput", pretty_exceptions_enable=False, help="Texts a second on this machine.")

BASELINE = "torch FP32"


@app.command()
def throughput_command(
    checkpoint: Annotated[Path, typer.Option("--checkpoint", help="Float Hugging Face folder.")] = CHECKPOINT,
    task: Annotated[str, typer.Option("--task", help="Task, as Hugging Face names it.")] = "text-classification",
    data: Annotated[Path, typer.Option("--data", help="Rows to calibrate on.")] = TRAIN,
    evaluation: Annotated[Path, typer.Option("--eval", help="Rows to answer.")] = VALIDATION,
    texts: Annotated[int, typer.Option("--texts", min=1, help="How many rows calibrate.")] = 256,
    limit: LimitOption = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Rows a batch.")] = 32,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Passes of each over all rows.")] = 5,
    streams: Annotated[int, typer.Option("--streams", min=0, help="Batches at once; 0: one a core.")] = 0,
    nncf: Annotated[
        list[Path] | None, typer.Option("--nncf", help="A model.xml of python -m benchmarks.peers --keep.")
    ] = None,
    clock: Annotated[
        Literal["wall", "processor"], typer.Option("--clock", help="processor: of all threads, for a busy machine.")
    ] = "wall",
    out: Annotated[Path | None, typer.Option("--out", help="JSON file with every sample.")] = None,
) -> None:
    """Answer all rows with torch, ONNX Runtime, OpenVINO, NNCF and qdq, in alternation; as many streams for each.

    Example: python -m benchmarks.throughput --checkpoint my-bert --data train.jsonl --eval dev.jsonl
    """
    streams = streams or os.cpu_count() or 1
    if out is not None:
        require_writable(out)
    setting = Setting(checkpoint=checkpoint, task=task, data=data, texts=texts, nncf=tuple(nncf or ()), streams=streams)
    found = find_task(task)
    loaded = load_checkpoint(checkpoint, found)
    rows = found.load(evaluation, columns={}, limit=limit)
    encoded = found.encode(rows, tokenizer=loaded.tokenizer, config=loaded.model.config)
    reading = time_paired(
        {"encode": lambda: found.encode(rows, tokenizer=loaded.tokenizer, config=loaded.model.config)},
        repeats=3,
        clock=CLOCKS[clock],
    )["encode"]
    batching = Batching(pad_token_id=loaded.pad_token_id, batch_size=batch_size, streams=streams)
    torch.set_num_threads(streams)  # torch takes one batch after the other, with as many threads as others have streams
    contestants = [Contestant(name=BASELINE, int8_kernels=0, runner=TorchRunner(loaded.model))]
    with TemporaryDirectory() as folder, ExitStack() as stack:
        contestants += prepare_contestants(setting, Path(folder), progress=say)
        for each in contestants:
            stack.enter_context(each.runner)
        say(f"{rounds} rounds over {len(encoded)} rows, {streams} at once ...")
        passes = time_passes(contestants, encoded, found, batching=batching, rounds=rounds, clock=CLOCKS[clock])
    padding = {name: share_padding(encoded, replace(batching, order=order)) for name, order in ORDERS.items()}
    result = {
        "checkpoint": checkpoint.name,
        "rows": len(encoded),
        "batch_size": batch_size,
        "streams": streams,
        "clock": clock,
        "padding": padding,
        "encoding_texts_per_s": len(encoded) * 1000 / reading.p50,
        "contestants": {
            each.name: {"precision": each.runner.precision, "int8_kernels": each.int8_kernels} for each in contestants
        },
        "passes": [asdict(each) for each in passes],
        "environment": describe_environment(),
    }
    _print_passes(result)
    if out is not None:
        write_json(out, result)
    print_json(result)


def _print_passes(result: Mapping[str, Any]) -> None:
    padding = ", ".join(f"{name} {share:.1%}" for name, share in result["padding"].items())
    rows = [
        (
            *(one["name"], *result["contestants"][one["name"]].values(), one["order"], round(one["texts_per_s"])),
            *(one["ratio"], one["spread"], one["bucketing"]),
        )
        for one in result["passes"]
    ]
    print_table(
        f"{result['rows']} rows, {result['batch_size']} a batch, {result['streams']} at once, {result['clock']} clock; "
        f"padding {padding}",
        ("runtime", "precision", "INT8", "batches", "texts/s", f"x {BASELINE}", "±", "x random"),
        rows,
    )
