"""What a step of quantization-aware training costs on the contest's checkpoint: ours, and a peer's that has one."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.contest import Contest
from benchmarks.qat_step_contestants import Setting
from benchmarks.qat_step_rounds import compare_steps, time_steps
from benchmarks.timing import CLOCKS, Samples
from qat.errors import BuildError, DataError

_ROWS = 32
_TEXTS = 2048


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """The steps of every contestant.

    Attributes:
        samples_ms: processor time by contestant, in the order of the rounds.
        error: why the peer is not among them; empty where it is.
    """

    samples_ms: Mapping[str, Sequence[float]] = field(repr=False)
    error: str = ""

    def list_costs(self) -> list[dict[str, Any]]:
        """A line for each contestant but the float ones: its ratio to the float step, and that ratio's spread."""
        costs = compare_steps({name: Samples(tuple(taken)) for name, taken in self.samples_ms.items()})
        return [
            {"name": each.name, "ratio": each.ratio, "spread": each.spread, "milliseconds": each.milliseconds}
            for each in costs
        ]


def read_training(path: Path, checkpoint: Path) -> Training:
    """The steps that ``python -m benchmarks.qat_step`` took on the same checkpoint, from its JSON line kept in a file.

    Raises:
        DataError: no such file, something else, or another checkpoint's.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        name, training = stored["checkpoint"], Training(samples_ms=stored["samples_ms"])
        training.list_costs()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"--training {path} is no result of python -m benchmarks.qat_step ({error!r}): give the JSON line it "
            "printed as a file, or leave --training out"
        ) from error
    if name != checkpoint.name:
        raise DataError(
            f"--training {path} is of the checkpoint {name}, the contest of {checkpoint.name}: give that one's, "
            "or leave --training out"
        )
    return training


def measure_training(contest: Contest, *, rounds: int) -> Training:
    """The steps, in alternation; without the peer where its environment or its model is not there.

    Args:
        contest: for the checkpoint and the rows.
        rounds: timed steps of each contestant.

    Raises:
        DataError: too few rows for one batch.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(contest.threads)
    setting = Setting(
        checkpoint=contest.checkpoint,
        data=contest.data,
        texts=_TEXTS,
        batch_size=_ROWS,
        threads=contest.threads,
    )
    clock, error = CLOCKS["processor"], ""
    try:
        samples = time_steps(setting, rounds=rounds, clock=clock, environments=contest.environments)
    except BuildError as failed:
        error = str(failed)
        samples = time_steps(setting, rounds=rounds, clock=clock, environments=None)
    finally:
        torch.set_num_threads(threads)
    return Training(samples_ms={name: taken.milliseconds for name, taken in samples.items()}, error=error)
