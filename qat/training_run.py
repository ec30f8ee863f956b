"""A training run on disk: where its checkpoints lie, what run they belong to, and which of them a resumed run takes."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from qat.artefacts import read_object, write_json
from qat.errors import CheckpointError
from qat.processes import processes, rank, share_first

_RUN = "run.json"


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """Where a run keeps its checkpoints, and whether one that was interrupted there goes on."""

    folder: Path
    resume: bool = False


def open_run_together(run: TrainingRun, identity: Mapping[str, Any]) -> Path | None:
    """As ``open_run``, by the first of several processes for all of them.

    Raises:
        CheckpointError: as ``open_run``, in every process.
    """
    found: Path | CheckpointError | None = None
    if rank() == 0:
        try:
            found = open_run(run, identity)
        except CheckpointError as error:
            found = error
    found = share_first(found)
    if isinstance(found, CheckpointError):
        raise found
    return found


def open_run(run: TrainingRun, identity: Mapping[str, Any]) -> Path | None:
    """The checkpoint a run goes on from, None where it starts; its folder then belongs to it.

    Raises:
        CheckpointError: an interrupted run is there and ``run`` does not resume, or it was another run.
    """
    folder = run.folder
    record = folder / _RUN
    if not record.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(record, identity)
        return None
    require_uninterrupted(run)
    try:
        before = json.loads(record.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{record} is no record of a run ({error}): delete {folder} and start again") from error
    differing = [name for name in identity if before.get(name) != json.loads(json.dumps(identity[name]))]
    if differing:
        raise CheckpointError(
            f"{folder} holds a run with other {' and '.join(differing)}: give what it was started with, or delete it"
        )
    return newest_checkpoint(folder)


def forget_run(run: TrainingRun, identity: Mapping[str, Any]) -> None:
    """Deletes the checkpoints of a run that has come to its end; those of another one stay."""
    before = read_object(run.folder / _RUN)
    if all(identity.get(name) == value for name, value in before.items()):
        shutil.rmtree(run.folder, ignore_errors=True)


def require_uninterrupted(run: TrainingRun) -> None:
    """Passes where a run may begin in its folder, or goes on with what is there.

    Raises:
        CheckpointError: an interrupted run is there, and ``run`` does not resume.
    """
    if not run.resume and (run.folder / _RUN).is_file():
        raise CheckpointError(f"{run.folder} holds an interrupted run: go on with --resume, or delete the folder")


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of Trainer's in ``folder``, None where there is none; broken ones are deleted.

    Trainer writes ``trainer_state.json`` last: a checkpoint without it was interrupted. The state of the random numbers
    is written by each of several processes, whenever it comes to it; without it a run would go on with others.
    """
    names = [f"rng_state_{each}.pth" for each in range(processes())] if processes() > 1 else ["rng_state.pth"]
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for checkpoint in found:
        try:
            json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
            for name in names:
                ZipFile(checkpoint / name).close()
        except (OSError, ValueError, RecursionError, BadZipFile):
            shutil.rmtree(checkpoint)
            continue
        return checkpoint
    return None
