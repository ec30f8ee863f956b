"""Times become ratios to the baseline, pair by pair: what slows one call of a round slows its neighbour too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.latency.rows import LatencyRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """How many times faster than the baseline: the median over the rounds, and its quartiles."""

    name: str
    shape: str
    p50_ms: float
    ratio: float
    low: float
    high: float


def pair_ratios(names: Sequence[str], rows: Sequence[LatencyRow]) -> list[Ratio]:
    """The ratios of every row to the first of its shape, round by round.

    Args:
        names: of the runners, in the order they were timed.
        rows: what :func:`measure_latency` returned for them.

    >>> def row(ms):
    ...     return LatencyRow("x", "y", 1, 8, 0.0, 0.0, 0.0, 0.0, ms)
    >>> [each.ratio for each in pair_ratios(["a", "b"], [row((2.0, 8.0, 4.0)), row((1.0, 2.0, 2.0))])]
    [1.0, 2.0]
    """
    found = []
    for start in range(0, len(rows), len(names)):
        cell = rows[start : start + len(names)]
        baseline = np.array(cell[0].samples_ms)
        for name, row in zip(names, cell, strict=True):
            low, middle, high = np.percentile(baseline / np.array(row.samples_ms), [25, 50, 75]).tolist()
            shape = f"{row.batch}x{row.sequence}"
            found.append(Ratio(name=name, shape=shape, p50_ms=row.p50_ms, ratio=middle, low=low, high=high))
    return found


def draw_table(ratios: Sequence[Ratio], facts: Mapping[str, tuple[str, int]]) -> str:
    """The ratios as text, a line a runner: its precision, its INT8 kernels, and ``median ±half the quartiles' range``.

    >>> one = Ratio(name="a", shape="1x8", p50_ms=1.0, ratio=2.0, low=1.9, high=2.1)
    >>> print(draw_table([one], {"a": ("int8+fp32", 36)}))
    runtime                         precision  INT8         1x8
    a                               int8+fp32    36  2.00 ±0.10
    """
    shapes = list(dict.fromkeys(each.shape for each in ratios))
    cells = {(each.name, each.shape): f"{each.ratio:.2f} ±{(each.high - each.low) / 2:.2f}" for each in ratios}
    lines = [f"{'runtime':<31} {'precision':<9} {'INT8':>5}" + "".join(f"{shape:>12}" for shape in shapes)]
    for name in dict.fromkeys(each.name for each in ratios):
        precision, kernels = facts[name]
        row = "".join(f"{cells[name, shape]:>12}" for shape in shapes)
        lines.append(f"{name[:31]:<31} {precision:<9} {kernels:>5}{row}")
    return "\n".join(lines)
