"""Killing ``qdq run``: a process of its own, forked where everything is imported, that ends at a moment of choice."""

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import onnx
import torch

import benchmarks.commands
from benchmarks.command_line import run
from benchmarks.journey import Journey
from export.engine_files import read_manifest_of
from qat.artefacts import explain_damage, hash_file
from qat.checkpoint import load_checkpoint
from qat.errors import CheckpointError
from qat.tasks import find_task
from tests.test_command_line.calling import Workspace

WEIGHTS = {
    "calibrated": "model.safetensors",
    "finetuned": "model.safetensors",
    "onnx": "model.onnx",
}
"""The folders of a run and the file in each that must be the same to the bit."""

ENGINE = "model.engine"
REPORT = "report.json"
SETTINGS = (
    "build.hardware=sm_89",
    "finetune.max_steps=6",
    "finetune.evaluations=3",
    "finetune.batch_size=8",
    "finetune.learning_rate=1e-3",
)
OLD_SETTINGS = ("build.hardware=sm_89", "finetune.max_steps=1", "calibration.method=max")
TIMES = ("timings_s", "latency")
DEADLINE = 600

SERVED = multiprocessing.get_context("forkserver")
SERVED.set_forkserver_preload(["transformers", "accelerate", "onnxruntime", "tests.test_command_line.killing"])


@dataclass(frozen=True)
class Ended:
    """How a run ended and what it said."""

    code: int
    said: str


@dataclass(frozen=True)
class Made:
    """What a finished run leaves: the hash of each artefact that must be the same to the bit, and its figures."""

    hashes: dict[str, str]
    figures: dict[str, Any]

    @classmethod
    def of(cls, out: Path) -> "Made":
        """What lies in ``out``."""
        hashes = {name: hash_file(out / name / file) for name, file in WEIGHTS.items()}
        return cls(hashes, read_figures(out))


def read_figures(out: Path) -> dict[str, Any]:
    """The report of a run but its times."""
    report = json.loads((out / REPORT).read_text(encoding="utf-8"))
    del report["environment"]["date"]
    return {name: value for name, value in report.items() if name not in TIMES}


def name_run(made: Workspace, out: Path, settings: tuple[str, ...], *more: str) -> list[str]:
    """The arguments of a run."""
    return [
        *("run", str(made.checkpoint), "--task", "text-classification", "--data", str(made.train)),
        *("--eval", str(made.validation), "--out", str(out), "--batch-size", "8", *more),
        *(f"--set={each}" for each in settings),
    ]


def start_run(arguments: list[str], log: Path, context: BaseContext = SERVED) -> Any:
    """The process of a run that writes what it says to ``log``."""
    log.write_text("", encoding="utf-8")
    process: Any = context.Process(  # type: ignore[attr-defined]
        target=_run, args=(arguments, str(log))
    )
    process.start()
    return process


def _run(arguments: list[str], log: str) -> None:
    torch.set_num_threads(1)
    said = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.argv = ["qdq", *arguments]
    vars(benchmarks.commands)["Journey"] = partial(Journey, latency_seconds=0.02, latency_shapes=((1, 8),))
    run()


def finish(process: Any, log: Path) -> Ended:
    """How a run ends that nobody stops."""
    process.join(DEADLINE)
    process.kill()
    process.join()
    return Ended(process.exitcode, log.read_text(encoding="utf-8"))


def kill_when(process: Any, moment: Callable[[], bool]) -> bool:
    """Whether the process was killed, as soon as ``moment`` had come; it may end before that."""
    deadline = time.monotonic() + DEADLINE
    while process.is_alive() and time.monotonic() < deadline:
        if moment():
            process.kill()
            process.join()
            return bool(process.exitcode < 0)
        time.sleep(0.0005)
    process.kill()
    process.join()
    return False


def find_faults(out: Path, *known: Made) -> Iterator[str]:
    """What on disk is neither whole nor one of the artefacts that are ``known``."""
    for name, file in WEIGHTS.items():
        if not (out / name).exists():
            continue
        damage = explain_damage(out / name)
        if damage:
            yield f"{name}: {damage}"
        if hash_file(out / name / file) not in [made.hashes[name] for made in known]:
            yield f"{name}: neither the old nor the new one"
        if name == "onnx":
            onnx.checker.check_model(out / name / file, full_check=True)
        else:
            load_checkpoint(out / name, find_task("text-classification"))
    if (out / REPORT).exists() and read_figures(out) not in [made.figures for made in known]:
        yield f"{REPORT}: neither the old nor the new one"
    strange = {path.name for path in out.iterdir() if not path.name.startswith(".")} if out.exists() else set()
    strange -= {*WEIGHTS, ENGINE, f"{ENGINE}.json", f"{ENGINE}.layers", REPORT, "report.html", "finetuned.checkpoints"}
    yield from (f"{name}: nobody knows it" for name in sorted(strange))


def matches_manifest(engine: Path) -> bool:
    """Whether an engine is the one its manifest describes."""
    try:
        return bool(read_manifest_of(engine))
    except CheckpointError:
        return False


def find_differences(out: Path, expected: Made) -> Iterator[str]:
    """What a finished run has left otherwise than expected."""
    found = Made.of(out)
    yield from (f"{name} differs" for name in WEIGHTS if found.hashes[name] != expected.hashes[name])
    yield from (name for name in expected.figures if found.figures.get(name) != expected.figures[name])
    if not matches_manifest(out / ENGINE):
        yield f"{ENGINE} does not match its manifest"
    yield from (f"{path.name} was left" for path in out.iterdir() if path.name.startswith("."))
    if (out / "finetuned.checkpoints").exists():
        yield "checkpoints were left"
