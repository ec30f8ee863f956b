"""What another tool's calibration costs beside ours: one checkpoint, the same batches and placement, in one run."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.peers.contest import Contest, Outcome, run_contest
from benchmarks.peers.roster import OURS, PEERS
from benchmarks.peers.row import Peer
from calibration.ranges import METHODS
from calibration.settings import BEST
from qat.errors import BuildError

_PLACEMENT = "linear"
_BEST_PLACEMENTS = ("linear/channel", "tensorrt/channel", "tensorrt/tensor", "default/channel", "default/tensor")
_NNCF_ROWS = {"transformer", "linear"}


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
    return tabulate_methods(list(run_contest(contest, chosen)), peer)


def tabulate_methods(outcomes: Sequence[Outcome], peer: str) -> list[MethodCost]:
    """A line a method from the outcomes of both tools.

    Raises:
        BuildError: the peer's environment was not made.
    """
    require_environments(outcomes)
    found = {(each.peer, each.row.recipe.split()[-1]): each for each in outcomes}
    return [_compare(method, found[OURS.name, method], found[peer, method]) for method in METHODS]


def _compare(method: str, ours: Outcome, theirs: Outcome) -> MethodCost:
    (mine, my_passes), (other, other_passes) = _seconds(ours), _seconds(theirs)
    return MethodCost(
        method=method,
        ours=mine,
        theirs=other,
        ours_passes=my_passes,
        theirs_passes=other_passes,
        times=None if mine is None or other is None else other / mine,
        error="; ".join(each.error for each in (ours, theirs) if each.error),
    )


def time_best(contest: Contest) -> dict[str, float | str]:
    """Processor seconds of ``best`` and of NNCF, from the float model to the quantized one, or the error of a row.

    Args:
        contest: as of ``compare_methods``; both tools read all of its calibration rows.

    Raises:
        BuildError: NNCF's environment was not made.
    """
    ours = {f"{placement} {BEST}" for placement in _BEST_PLACEMENTS}
    chosen = [
        replace(peer, rows=tuple(row for row in peer.rows if row.recipe in wanted))
        for peer, wanted in ((OURS, ours), (PEERS["nncf"], _NNCF_ROWS))
    ]
    found = list(run_contest(contest, chosen))
    require_environments(found)
    return {
        f"{each.peer}: {each.row.recipe}": each.error or float(each.facts["quantization"]["cpu_s"]) for each in found
    }


def require_environments(found: Iterable[Outcome]) -> None:
    """Passes when every row had its environment.

    Raises:
        BuildError: one was not made, or from other versions.
    """
    missing = [each.error for each in found if "benchmarks.peers prepare" in each.error]
    if missing:
        raise BuildError(f"{missing[0]}, or leave the peers out with --no-peers")


def _keep_rows(peer: Peer, prefix: str) -> Peer:
    return replace(peer, rows=tuple(row for row in peer.rows if row.recipe in {prefix + name for name in METHODS}))


def _seconds(outcome: Outcome) -> tuple[float | None, float | None]:
    """Seconds, and how many bare passes that is; nothing for a row that failed."""
    if outcome.error:
        return None, None
    spent, bare = float(outcome.facts["quantization"]["cpu_s"]), float(outcome.facts["inference"]["cpu_s"])
    return spent, spent / bare


def plan_contest(checkpoint: Path, data: Path, texts: int, batch_size: int, threads: int) -> Contest:
    """A contest over those calibration rows that scores a few of them only: its accuracies are not asked for."""
    return Contest(
        checkpoint=checkpoint, task="text-classification", data=data, evaluation=data, texts=texts, limit=64,
        calibration_batch=batch_size, threads=threads, minutes=30.0,
    )  # fmt: skip
