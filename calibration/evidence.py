"""What a calibrated folder keeps of every tensor whose range came from data: enough to judge any range without data.

``evidence.json`` holds, for each quantizer and depth, the histogram in a few dozen bins, the largest magnitudes of the
channels likewise, the outlier dimensions by name, and the figures of the ranges that calibration found, computed from
the whole histogram. Figures of another range are estimated from the bins.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from calibration.histogram import Floats
from calibration.log_counts import LogCounts
from calibration.ranges.mse import squared_errors
from qat.errors import CheckpointError
from qat.spec import INT8_MAX

FILE = "evidence.json"
OUTLIER = 6.0
"""A channel is an outlier dimension when its largest magnitude is this many times that of the median channel."""

_NAMED = 16
"""Of the outlier dimensions the largest are named, of the others the number is known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RangeFigures:
    """How a range fits its tensor.

    Attributes:
        amax: the range.
        saturated: the share of values with a magnitude above it.
        dead: how many channels are zero everywhere once rounded: their largest magnitude is at most half a step.
        sqnr_db: the energy of the values by that of their rounding error, in decibels; None where there is no error.
        levels: how many of the 128 INT8 magnitudes occur; None where it was not counted.
    """

    amax: float
    saturated: float
    dead: int
    sqnr_db: float | None
    levels: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorEvidence:
    """What passed through a quantizer at one depth.

    Attributes:
        largest: the largest magnitude.
        magnitudes: of all values.
        channels: of the channels' largest magnitudes.
        outliers: how many outlier dimensions there are.
        named: the number and largest magnitude of the widest of them.
        figures: of the ranges calibration found.
    """

    largest: float
    magnitudes: LogCounts
    channels: LogCounts
    outliers: int
    named: Mapping[int, float]
    figures: tuple[RangeFigures, ...]

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """What ``to_dict`` gave."""
        return cls(
            largest=float(stored["largest"]),
            magnitudes=LogCounts.from_dict(stored["magnitudes"]),
            channels=LogCounts.from_dict(stored["channels"]),
            outliers=int(stored["outliers"]),
            named={int(channel): float(peak) for channel, peak in stored["named"].items()},
            figures=tuple(RangeFigures(**figures) for figures in stored["figures"]),
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "figures": [asdict(figures) for figures in self.figures]}

    @property
    def zeros(self) -> float:
        """The share of values that are zero."""
        return self.magnitudes.zeros / self.magnitudes.total

    def judge(self, amax: float, scale: float) -> RangeFigures:
        """The figures of a range: those calibration computed, or an estimate from the bins."""
        for figures in self.figures:
            if figures.amax == amax:
                return figures
        values, counts = self.magnitudes.points(self.largest)
        peaks, channels = self.channels.points(self.largest)
        return RangeFigures(
            amax=amax,
            saturated=share_above(values, counts, amax),
            dead=round(float(channels[peaks <= scale / 2].sum())),
            sqnr_db=find_sqnr(values, counts, scale),
            levels=None,
        )


Evidence = Mapping[str, Sequence[TensorEvidence]]
"""By the quantizer's path: one entry a depth."""


def examine(
    points: tuple[Floats, Floats], largest: float, peaks: Floats, ranges: Sequence[tuple[float, float]]
) -> TensorEvidence:
    """The evidence of a tensor.

    Args:
        points: magnitudes, rising, and how often each occurred.
        largest: the largest of them.
        peaks: the largest magnitude of every channel.
        ranges: each range with its scale.
    """
    wide = find_outliers(peaks)
    return TensorEvidence(
        largest=largest,
        magnitudes=LogCounts.condense(*points),
        channels=LogCounts.condense(peaks, np.ones(len(peaks))),
        outliers=len(wide),
        named={int(channel): float(peaks[channel]) for channel in wide[:_NAMED]},
        figures=tuple(_measure(points, peaks, amax, scale) for amax, scale in dict.fromkeys(ranges)),
    )


def _measure(points: tuple[Floats, Floats], peaks: Floats, amax: float, scale: float) -> RangeFigures:
    values, counts = points
    sqnr = find_sqnr(values, counts, scale)
    return RangeFigures(
        amax=amax,
        saturated=share_above(values, counts, amax),
        dead=int((peaks <= scale / 2).sum()),
        sqnr_db=None if sqnr is None else round(sqnr, 3),
        levels=len(np.unique(np.minimum(np.rint(values / scale), INT8_MAX))),
    )


def find_outliers(peaks: Floats) -> list[int]:
    """The outlier dimensions, the widest first; none where the median channel is dead.

    >>> find_outliers(np.array([1.0, 9.0, 1.5, 30.0, 1.2]))
    [3, 1]
    """
    median = float(np.median(peaks)) if len(peaks) else 0.0
    if median == 0:
        return []
    return [int(channel) for channel in np.argsort(-peaks, kind="stable") if peaks[channel] >= OUTLIER * median]


def share_above(values: Floats, counts: Floats, amax: float) -> float:
    """The share of values above ``amax``.

    >>> share_above(np.array([1.0, 2.0, 3.0]), np.array([5.0, 4.0, 1.0]), 2.0)
    0.1
    """
    return float(counts[values > amax].sum() / counts.sum())


def find_sqnr(values: Floats, counts: Floats, scale: float) -> float | None:
    """The signal to quantization noise ratio of INT8 with that step, in decibels; None where either is zero.

    >>> round(find_sqnr(np.array([1.4, 3.0]), np.ones(2), 1.0), 3)
    18.357
    """
    error = float(squared_errors(values, counts, np.array([scale * INT8_MAX]))[0])
    signal = float((counts * values**2).sum())
    return 10 * float(np.log10(signal / error)) if error > 0 and signal > 0 else None


def format_evidence(evidence: Evidence) -> str:
    """The text of ``evidence.json``, a line for each quantizer and depth."""
    found = []
    for name, depths in evidence.items():
        lines = ",\n".join(json.dumps(each.to_dict(), allow_nan=False) for each in depths)
        found.append(f"{json.dumps(name)}: [\n{lines}\n]")
    return '{"version": 1, "ranges": {\n' + ",\n".join(found) + "\n}}\n"


def read_evidence(folder: Path) -> Evidence:
    """What a calibrated folder keeps; nothing where it has no such file.

    Raises:
        CheckpointError: a damaged file.
    """
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return {
            str(name): [TensorEvidence.from_dict(each) for each in found] for name, found in stored["ranges"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): calibrate the float checkpoint again") from error
