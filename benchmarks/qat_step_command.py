"""``python -m benchmarks.qat_step``: its options, its table, its JSON."""

from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from benchmarks.environment import describe_environment
from benchmarks.peers.environments import FOLDER
from benchmarks.qat_step_contestants import FLOAT, PLACEMENTS, Setting, measure_memory
from benchmarks.qat_step_rounds import compare_steps, time_steps
from benchmarks.sample import CHECKPOINT, TRAIN
from benchmarks.timing import CLOCKS
from qat.console import print_json, print_table, say

app = typer.Typer(name="qat_step", pretty_exceptions_enable=False, help="Training steps side by side.")


@app.command()
def qat_step_command(
    checkpoint: Annotated[Path, typer.Option(help="Float checkpoint folder.")] = CHECKPOINT,
    data: Annotated[Path, typer.Option(help="Rows with a text and a label.")] = TRAIN,
    rounds: Annotated[int, typer.Option(min=1, help="Timed steps of each.")] = 32,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows a step.")] = 32,
    texts: Annotated[int, typer.Option(min=1, help="How many rows are read.")] = 2048,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch; as it chooses if not given.")] = None,
    clock: Annotated[
        Literal["wall", "processor"], typer.Option(help="processor: of all threads, for a busy machine.")
    ] = "wall",
    peers: Annotated[bool, typer.Option(help="Also NVIDIA ModelOpt, in its own environment.")] = True,
    environments: Annotated[Path, typer.Option(help="Where the peers' environments lie.")] = FOLDER,
) -> None:
    """Time training steps of the float model and of the quantized ones in alternation; the last line is JSON.

    Example: python -m benchmarks.qat_step --checkpoint my-bert --data train.jsonl --threads 2
    """
    if threads is not None:
        torch.set_num_threads(threads)
    setting = Setting(
        checkpoint=checkpoint, data=data, texts=texts, batch_size=batch_size, threads=torch.get_num_threads()
    )
    say(f"{rounds} rounds ...")
    samples = time_steps(setting, rounds=rounds, clock=CLOCKS[clock], environments=environments if peers else None)
    costs = compare_steps(samples)
    say("; ".join(f"{each.name} {each.ratio:.3f}" for each in costs))
    say("memory ...")
    memory, resident = (
        {name: measure_memory(name, setting, holes=holes) for name in (FLOAT, *PLACEMENTS)} for holes in (False, True)
    )
    rows = [(each.name, each.ratio, each.spread, each.milliseconds, memory.get(each.name)) for each in costs]
    print_table(f"{checkpoint}, {batch_size} rows a step", ("step", "ratio", "±", f"{clock} ms", "peak MB"), rows)
    print_json({
        "checkpoint": checkpoint.name,
        "batch_size": batch_size,
        "rounds": rounds,
        "clock": clock,
        **{f"ratio_{each.name}": each.ratio for each in costs},
        **{f"memory_{name}": _divide(memory[name], memory[FLOAT]) for name in PLACEMENTS},
        **{f"resident_{name}": _divide(resident[name], resident[FLOAT]) for name in PLACEMENTS},
        "memory_mb": memory,
        "resident_mb": resident,
        "samples_ms": {name: taken.milliseconds for name, taken in samples.items()},
        "threads": setting.threads,
        "environment": describe_environment(),
    })  # fmt: skip


def _divide(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole
