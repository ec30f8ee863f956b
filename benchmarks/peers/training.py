"""What a step of quantization-aware training costs on the contest's checkpoint: ours, and a peer's that has one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.peers.contest import Contest
from benchmarks.qat_step_contestants import Setting
from benchmarks.qat_step_rounds import compare_steps, time_steps
from benchmarks.timing import CLOCKS, Samples
from qat.errors import BuildError

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
