"""Training steps in alternation, and what they cost beside the float step.

Every round each contestant takes one step on the same batch, one right after the other and in changing order; a ratio
is the median over the rounds. The peer takes its steps in the same alternation, in a process of its own environment,
and is compared with a float step of that environment.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.qat_step_contestants import FLOAT, PLACEMENTS, Setting, make_step, read_feeds
from benchmarks.qat_step_peer import open_peer
from benchmarks.timing import CLOCKS, Samples, time_paired
from qat.errors import DataError

_PEER_FLOAT, _PEER = "modelopt_float", "modelopt"
_WARM_UP = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class StepCost:
    """One line of the table.

    Attributes:
        name: the contestant.
        ratio: the median over the rounds of its time by that of the float step of its environment.
        spread: half the distance between the quartiles of that ratio.
        milliseconds: its median time.
    """

    name: str
    ratio: float
    spread: float
    milliseconds: float


def compare_steps(samples: Mapping[str, Samples]) -> list[StepCost]:
    """A line for each contestant, from samples that stand in the order of the rounds.

    >>> compare_steps({"float": Samples((2.0, 4.0)), "full": Samples((3.0, 6.0))})[1].ratio
    1.5
    """
    found = []
    for name, taken in samples.items():
        base = samples[_PEER_FLOAT if name.startswith(_PEER) else FLOAT]
        ratios = np.array(taken.milliseconds) / np.array(base.milliseconds)
        low, middle, high = (float(value) for value in np.percentile(ratios, (25, 50, 75)))
        found.append(StepCost(name=name, ratio=middle, spread=(high - low) / 2, milliseconds=taken.p50))
    return found


def time_steps(
    setting: Setting, *, rounds: int, clock: Callable[[], int], environments: Path | None
) -> dict[str, Samples]:
    """The samples of every contestant, round by round.

    Args:
        setting: checkpoint and rows.
        rounds: timed steps of each contestant.
        clock: nanoseconds.
        environments: where the peers' environments lie; None leaves the peer out.

    Raises:
        BuildError: the peer's environment was not made.
        DataError: too few rows for one batch.
    """
    feeds = read_feeds(setting)
    if not feeds:
        raise DataError(f"{setting.data} fills no batch of {setting.batch_size} rows: lower --batch-size")
    steps: dict[str, Callable[[], object]] = {}
    with ExitStack() as stack:
        peer_ns: Callable[[], int] = int
        if environments is not None:
            peer = stack.enter_context(
                open_peer(setting.checkpoint, feeds, threads=setting.threads, environments=environments)
            )
            steps[_PEER_FLOAT], steps[_PEER] = partial(peer.take, "float"), partial(peer.take, "quantized")
            if clock is CLOCKS["processor"]:
                peer_ns = lambda: peer.processor_ns  # noqa: E731
        steps |= {name: make_step(name, setting, feeds) for name in (FLOAT, *PLACEMENTS)}
        return time_paired(steps, repeats=rounds, warmup=_WARM_UP, settle=0, clock=lambda: clock() + peer_ns())
