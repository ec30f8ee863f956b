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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from transformers import PreTrainedModel

import benchmarks.journey
from export.exported import trace_model
from qat.checkpoint import load_checkpoint
from qat.origin import digest_model
from qat.tasks import find_task
from tests.test_command_line.calling import Workspace, make_workspace
from tests.test_command_line.killing import (
    ENGINE,
    OLD_SETTINGS,
    SETTINGS,
    WEIGHTS,
    Made,
    find_differences,
    find_faults,
    finish,
    kill_when,
    matches_manifest,
    name_run,
    start_run,
)

FOLDERS = tuple(WEIGHTS)
WRITES = ("calibrated", "a checkpoint", "finetuned", "onnx", ENGINE, "report.json")
PLACES = {"a checkpoint": "finetuned.checkpoints/checkpoint-4"}


def main() -> None:
    """Kills and resumes, says each in a line of JSON and all in the last one; exits 1 where anything was not right."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        kills = []
        for each in soak(Path(folder), asked.kills, random.Random(asked.seed)):
            kills.append(each)
            sys.stdout.write(json.dumps(asdict(each)) + "\n")
            sys.stdout.flush()
    sys.stdout.write(json.dumps(sum_up(kills)) + "\n")
    sys.exit(1 if any(each.faults for each in kills) else 0)


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One run that was killed, and the one that went on.

    Attributes:
        moment: when.
        killed: False where it had ended before.
        onto: whether it began on the artefacts of an earlier run.
        there: what lay in the folder after the kill, hidden things included.
        engine: whether the engine there was the one its manifest describes; None where there was none.
        taken: the stages that the resumed run took.
        faults: what was not as it should be.
    """

    moment: str
    killed: bool
    onto: bool
    there: tuple[str, ...]
    engine: bool | None
    taken: tuple[str, ...]
    faults: tuple[str, ...]


def sum_up(kills: Sequence[Kill]) -> dict[str, object]:
    """How many of what."""
    return {
        "kills": sum(each.killed for each in kills),
        "ended before": sum(not each.killed for each in kills),
        "onto an earlier run": sum(each.onto for each in kills),
        "moments": dict(Counter(each.moment for each in kills)),
        "with something half written, hidden": sum(any(n.endswith(".qdq") for n in each.there) for each in kills),
        "with checkpoints": sum("finetuned.checkpoints" in each.there for each in kills),
        "engines": dict(Counter(str(each.engine) for each in kills)),
        "taken": dict(Counter(name for each in kills for name in each.taken)),
        "resumed to the same": sum(not each.faults for each in kills),
        "faults": [fault for each in kills for fault in each.faults],
    }


def soak(folder: Path, kills: int, chance: random.Random) -> Iterator[Kill]:
    """What ``kills`` kills came to, one after the other."""
    made, log = make_workspace(folder, layers=1), folder / "log.txt"
    old, _ = _run_whole(made, folder / "old", OLD_SETTINGS, log)
    new, stages = _run_whole(made, folder / "new", SETTINGS, log)
    _trace_once(folder / "new" / "finetuned")
    for number in range(kills):
        out, onto = folder / f"run-{number}", number % 2 == 1
        if onto:
            shutil.copytree(folder / "old", out)
        moment, come = _draw_moment(chance, stages, log, out)
        killed = kill_when(_start(name_run(made, out, SETTINGS), log), come)
        there = tuple(sorted(path.name for path in out.iterdir())) if out.exists() else ()
        faults = [*find_faults(out, new, *([old] if onto else []))]
        faults += [f"{name} is missing" for name in FOLDERS if onto and name not in there]
        engine = matches_manifest(out / ENGINE) if (out / ENGINE).exists() else None
        ended = finish(_start(name_run(made, out, SETTINGS, "--resume"), log), log)
        faults += [*find_differences(out, new)] if ended.code == 0 else [f"exit {ended.code}: {ended.said[-500:]}"]
        taken = tuple(name for name in FOLDERS if f"take {name} ..." in ended.said)
        yield Kill(
            moment=moment, killed=killed, onto=onto, there=there, engine=engine, taken=taken, faults=tuple(faults)
        )
        shutil.rmtree(out)


def _trace_once(made: Path) -> None:
    """Has the runs forked from here find the graph of ``made``: tracing is most of their time, and writes nothing."""
    model = load_checkpoint(made, find_task("text-classification")).model
    known, graph = digest_model(model), trace_model(model)

    def trace(model: PreTrainedModel) -> ir.Model:
        return graph.clone() if digest_model(model) == known else trace_model(model)

    vars(benchmarks.journey)["trace_model"] = trace


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
    place = out / PLACES.get(name, name)
    before = _number(place)
    return f"writing {name}", _after(
        lambda: any(place.parent.glob(f".{place.name}.*.qdq")) or _number(place) != before, chance.random() * 0.02
    )


def _number(place: Path) -> int | None:
    """The file system's number of what lies there, which is another one once it was written anew."""
    try:
        return place.stat().st_ino
    except FileNotFoundError:
        return None


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
