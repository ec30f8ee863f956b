"""What another tool's calibration costs beside ours: one checkpoint, the same batches and placement, in one run."""

from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.peers.contest import Contest, run_contest
from benchmarks.peers.roster import OURS, PEERS
from benchmarks.peers.row import Peer
from calibration.ranges import METHODS
from qat.errors import BuildError

_PLACEMENT = "linear"


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodCost:
    """Processor seconds of one method, from the float model to the quantized one.

    Attributes:
        method: of ``calibration.ranges``.
        ours, theirs: seconds.
        ours_passes, theirs_passes: the same by the seconds each needs for one bare pass over those batches.
        times: theirs by ours.
        error: why there is no figure; empty where there is.
    """

    method: str
    ours: float | None
    theirs: float | None
    ours_passes: float | None
    theirs_passes: float | None
    times: float | None
    error: str


def compare_methods(contest: Contest, *, peer: str = "modelopt") -> list[MethodCost]:
    """What every histogram method costs in both tools, GEMMs only, as both can place them.

    Args:
        contest: the checkpoint and the rows.
        peer: a peer whose rows are called ``linear METHOD``.

    Raises:
        BuildError: its environment was not made.
        CheckpointError: no checkpoint.
        DataError: rows the task cannot use.
    """
    chosen = [_keep_rows(OURS, f"{_PLACEMENT}/channel "), _keep_rows(PEERS[peer], f"{_PLACEMENT} ")]
    found = {(each.peer, each.row.recipe.split()[-1]): each for each in run_contest(contest, chosen)}
    missing = [each.error for each in found.values() if "benchmarks.peers prepare" in each.error]
    if missing:
        raise BuildError(f"{missing[0]}, or leave the peers out with --no-peers")
    costs = []
    for method in METHODS:
        ours, theirs = found[OURS.name, method], found[peer, method]
        seconds = [_seconds(each.facts) for each in (ours, theirs)]
        costs.append(
            MethodCost(
                method=method,
                ours=seconds[0][0],
                theirs=seconds[1][0],
                ours_passes=seconds[0][1],
                theirs_passes=seconds[1][1],
                times=None if seconds[0][0] is None or seconds[1][0] is None else seconds[1][0] / seconds[0][0],
                error="; ".join(each.error for each in (ours, theirs) if each.error),
            )
        )
    return costs


def _keep_rows(peer: Peer, prefix: str) -> Peer:
    return replace(peer, rows=tuple(row for row in peer.rows if row.recipe in {prefix + name for name in METHODS}))


def _seconds(facts: object) -> tuple[float | None, float | None]:
    if not isinstance(facts, dict) or not facts:
        return None, None
    spent, bare = float(facts["quantization"]["cpu_s"]), float(facts["inference"]["cpu_s"])
    return spent, spent / bare


def plan_contest(checkpoint: Path, data: Path, texts: int, batch_size: int, threads: int) -> Contest:
    """A contest over those calibration rows that scores a few of them only: its accuracies are not asked for."""
    return Contest(
        checkpoint=checkpoint, task="text-classification", data=data, evaluation=data, texts=texts, limit=64,
        calibration_batch=batch_size, threads=threads, minutes=30.0,
    )  # fmt: skip
