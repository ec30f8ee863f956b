"""``python -m benchmarks.gpu``: its options, its progress, and the one file that it leaves."""

import re
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.environment import describe_environment
from benchmarks.gpu_parts import GpuRun, list_builders, list_parts, require_gpu
from benchmarks.sample import CHECKPOINT, TRAIN, VALIDATION
from qat.artefacts import require_writable, write_json
from qat.console import print_json, say
from qat.errors import QDQError
from qat.options import LimitOption

app = typer.Typer(name="gpu", pretty_exceptions_enable=False, help="What needs an NVIDIA GPU, in one file.")


@app.command()
def gpu_command(
    checkpoint: Annotated[Path, typer.Option("--checkpoint", help="Float Hugging Face folder.")] = CHECKPOINT,
    data: Annotated[Path, typer.Option("--data", help="Rows to calibrate and train on.")] = TRAIN,
    evaluation: Annotated[Path, typer.Option("--eval", help="Labelled rows to score on.")] = VALIDATION,
    texts: Annotated[int, typer.Option("--texts", min=32, help="How many rows calibrate.")] = 512,
    limit: LimitOption = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="Time for one shape.")] = 10.0,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Timed training steps of each.")] = 30,
    out: Annotated[Path, typer.Option("--out", help="Folder for engines and the result.")] = Path("runs/gpu"),
) -> None:
    """Build, run, verify and time all that needs a GPU; what fails is kept with its error. Exits 1 if anything failed.

    Example: python -m benchmarks.gpu --checkpoint my-bert --data train.jsonl --eval dev.jsonl
    """
    gpu, builders = require_gpu(), list_builders()
    place = out / f"gpu-{re.sub(r'[^a-z0-9]+', '-', gpu.name.lower())}_{datetime.now(UTC).date().isoformat()}.json"
    require_writable(place)
    run = GpuRun(
        checkpoint=checkpoint,
        data=data,
        evaluation=evaluation,
        out=out,
        gpu=gpu,
        texts=texts,
        limit=limit,
        seconds=seconds,
        rounds=rounds,
    )
    facts = {"gpu": str(gpu), "checkpoint": checkpoint.name, "builders": list(builders)}
    result: dict[str, Any] = {**facts, "environment": describe_environment()}
    failed = []
    say("calibrate and export ...")
    for name, part in list_parts(run, builders):
        say(f"{name} ...")
        try:
            result[name] = part()
        except (QDQError, RuntimeError) as error:  # of CUDA too
            result[name] = {"error": str(error), "where": traceback.format_exc().splitlines()[-8:]}
            failed.append(name)
            say(f"{name} failed: {str(error).splitlines()[0]}")
        write_json(place, result)  # after every part: what was found survives what comes
    say(f"send back {place}")
    print_json({"out": str(place), "failed": failed})
    raise typer.Exit(1 if failed else 0)
