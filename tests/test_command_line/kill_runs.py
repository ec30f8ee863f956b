"""``qdq run`` killed at random moments: ``python -m tests.test_command_line.kill_runs --kills 50``.

Every other one begins on the artefacts of an earlier run with other settings. A moment is a share of a stage's time, or
a few milliseconds after something begins to be written. After each kill whatever is on disk must be whole, and the old
or the new one; then ``--resume`` must end as a run that nobody stopped.
"""

import json
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from export.exported import trace_model
from tests.calibrated import make_calibrated
from tests.test_command_line.calling import Workspace, make_workspace
from tests.test_command_line.killing import (
    ENGINE,
    OLD_SETTINGS,
    SETTINGS,
    Made,
    find_differences,
    find_faults,
    finish,
    kill_when,
    matches_manifest,
    name_run,
    start_run,
)
from tests.tiny import tiny_bert

WRITES = ("calibrated", "finetuned", "onnx", ENGINE, "report.json", "float", "run.json")


def main() -> None:
    """Kills and resumes, and prints what was found as JSON; exits 1 where anything was not as it should be."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = soak(Path(folder), asked.kills, random.Random(asked.seed))
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    sys.exit(1 if found["faults"] else 0)


def soak(folder: Path, kills: int, chance: random.Random) -> dict[str, object]:
    """What ``kills`` kills came to."""
    torch.set_num_threads(1)
    trace_model(make_calibrated(tiny_bert()))  # what takes longest the first time; the runs are forked from here
    made = make_workspace(folder, layers=1)
    log = folder / "log.txt"
    old, _ = _run_whole(made, folder / "old", OLD_SETTINGS, log)
    new, stages = _run_whole(made, folder / "new", SETTINGS, log)
    faults: list[str] = []
    seen: Counter[str] = Counter()
    for number in range(kills):
        out = folder / f"run-{number}"
        known = [new]
        if number % 2:
            shutil.copytree(folder / "old", out)
            known.append(old)
        label, moment = _draw_moment(chance, stages, log, out)
        killed = kill_when(_start(name_run(made, out, SETTINGS), log), moment)
        seen["killed" if killed else "finished before"] += 1
        seen[f"killed: {label}"] += killed
        found = [*find_faults(out, *known)]
        if number % 2:
            found += [f"{name} is missing" for name in ("calibrated", "finetuned", "onnx") if not (out / name).exists()]
        if (out / ENGINE).exists():
            seen["engine whole" if matches_manifest(out / ENGINE) else "engine told from its manifest"] += 1
        seen["with leftovers"] += out.exists() and any(out.glob(".*.qdq"))
        seen["with checkpoints"] += (out / "finetuned.checkpoints").exists()
        ended = finish(_start(name_run(made, out, SETTINGS, "--resume"), log), log)
        for name in ("calibrated", "finetuned", "onnx"):
            seen[f"resumed: took {name}"] += f"take {name} ..." in ended.said
        if ended.code:
            found.append(f"the resumed run ended with {ended.code}: {ended.said[-500:]}")
        else:
            differing = [*find_differences(out, new)]
            seen["resumed: identical"] += not differing
            found += differing
        faults += [f"kill {number} ({label}): {each}" for each in found]
        sys.stderr.write(f"{number}: {label}, {'killed' if killed else 'finished'}, {found or 'as it should be'}\n")
        shutil.rmtree(out)
    return {"kills": kills, "found": dict(sorted(seen.items())), "faults": faults}


def _start(arguments: list[str], log: Path) -> Any:
    return start_run(arguments, log, multiprocessing.get_context("fork"))


def _run_whole(made: Workspace, out: Path, settings: tuple[str, ...], log: Path) -> tuple[Made, dict[str, float]]:
    ended = finish(_start(name_run(made, out, settings), log), log)
    assert ended.code == 0, ended.said
    timings: dict[str, float] = json.loads((out / "report.json").read_text(encoding="utf-8"))["timings_s"]
    return Made.of(out), timings


def _draw_moment(
    chance: random.Random, stages: dict[str, float], log: Path, out: Path
) -> tuple[str, Callable[[], bool]]:
    """A moment and what to call it."""
    if chance.random() < 0.5:
        name = chance.choice([*stages])
        return f"in {name}", _after(
            lambda: f"{name} ..." in log.read_text(encoding="utf-8"), chance.random() * stages[name]
        )
    name = chance.choice(WRITES)
    where = out / "finetuned.checkpoints" if name == "run.json" else out
    deep = "*/" if name == "float" else ""
    return f"writing {name}", _after(lambda: any(where.glob(f"{deep}.{name}.*.qdq")), chance.random() * 0.02)


def _after(begun: Callable[[], bool], seconds: float) -> Callable[[], bool]:
    """Whether so long has passed since something was first seen."""
    since: list[float] = []

    def passed() -> bool:
        if not since and begun():
            since.append(time.monotonic())
        return bool(since) and time.monotonic() - since[0] >= seconds

    return passed


if __name__ == "__main__":
    main()
