"""Placements between all INT8 and all float: the harm that each leaves, against the bytes and kernels of its plan."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from calibration.sensitivity import QuantizerGroup, Score, SensitivityReport, answer_error, leave_out
from qat.quantizer import disable_quantizers

_LEAST_MB = 1e-3
"""A group that costs the plan nothing still costs this much, so that harm can be divided by it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanCost:
    """What an engine's plan moves and launches: activation megabytes at a fixed shape, and kernels."""

    megabytes: float
    kernels: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """A model with some groups in float.

    Attributes:
        groups: those in float; the others are INT8.
        error: the relative squared error of its answers.
        metric: the task's metric.
        cost: of its engine's plan.
    """

    groups: tuple[QuantizerGroup, ...]
    error: float
    metric: float
    cost: PlanCost


Plan = Callable[[Sequence[QuantizerGroup]], PlanCost]
"""The cost of the engine with these groups in float."""


def price_group(plan: Plan, group: QuantizerGroup) -> float:
    """The megabytes that keeping ``group`` in float adds to a plan with everything quantized, at least a thousandth."""
    return max(plan((group,)).megabytes - plan(()).megabytes, _LEAST_MB)


def measure_placements(
    model: PreTrainedModel,
    report: SensitivityReport,
    score: Score,
    plan: Plan,
    *,
    points: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Placement, ...]:
    """Placements from all INT8 to all float, fewest bytes first; groups become float by harm for each megabyte.

    Args:
        model: the calibrated model that was measured; it is unchanged afterwards.
        report: its sensitivities.
        score: as when measuring.
        plan: what a placement costs the engine.
        points: how many placements, evenly spread over the groups; at least the two ends.
        progress: called with the placements done and all of them.
    """
    order = sorted(report.rows, key=lambda row: -row.harm / price_group(plan, row.group))
    groups = tuple(row.group for row in order)
    with disable_quantizers(model):
        reference = score(model).outputs
    counts = spread_counts(len(groups), points)
    found = []
    for number, count in enumerate(counts, start=1):
        kept = groups[:count]
        with leave_out(model, kept):
            scored = score(model)
        error = answer_error(scored.outputs, reference)
        found.append(Placement(groups=kept, error=error, metric=scored.value, cost=plan(kept)))
        progress(number, len(counts))
    return tuple(sorted(found, key=lambda each: each.cost.megabytes))


def spread_counts(last: int, points: int) -> list[int]:
    """Whole numbers from 0 to ``last``, evenly spread, no two alike.

    >>> spread_counts(10, 4), spread_counts(2, 9)
    ([0, 3, 7, 10], [0, 1, 2])
    """
    steps = max(min(points, last + 1) - 1, 1)
    return sorted({round(last * step / steps) for step in range(steps + 1)})


def pareto_front(placements: Sequence[Placement]) -> tuple[Placement, ...]:
    """The placements that no other beats: none moves as few bytes with less error, or fewer with as little."""
    return tuple(
        each
        for each in placements
        if not any(
            other.error <= each.error
            and other.cost.megabytes <= each.cost.megabytes
            and (other.error, other.cost.megabytes) != (each.error, each.cost.megabytes)
            for other in placements
        )
    )
