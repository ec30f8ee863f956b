"""A histogram condensed to a few dozen bins a quarter of an octave wide, small enough to be kept in a file."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from calibration.histogram import Floats

PER_OCTAVE = 4
_MOST_BINS = 12 * PER_OCTAVE
"""Down to 1/4096 of the largest magnitude: a range that clips to an eighth of it still has its first step in there."""

_POINTS = 16
"""So many equally spaced values stand for a bin where a figure needs values again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LogCounts:
    """Counts of magnitudes; bin ``k`` holds those in ``[2^(k/4), 2^((k+1)/4))``.

    Attributes:
        zeros: how many are zero.
        below: how many others lie below the first bin.
        first: the number of the first bin.
        counts: from that bin on; the last one holds the largest magnitude.
    """

    zeros: int
    below: int
    first: int
    counts: tuple[int, ...]

    @classmethod
    def condense(cls, values: Floats, counts: Floats) -> Self:
        """Magnitudes and how often each occurred, in bins.

        >>> LogCounts.condense(np.array([0.0, 1.0, 1.1, 2.0]), np.array([5.0, 1.0, 2.0, 3.0]))
        LogCounts(zeros=5, below=0, first=0, counts=(3, 0, 0, 0, 3))
        """
        filled = values > 0
        zeros = int(counts[~filled].sum())
        if not filled.any():
            return cls(zeros=zeros, below=0, first=0, counts=())
        bins = np.floor(PER_OCTAVE * np.log2(values[filled])).astype(np.int64)
        first = max(int(bins.min()), int(bins.max()) - _MOST_BINS + 1)
        inside = bins >= first
        found = np.bincount(bins[inside] - first, weights=counts[filled][inside])
        below = int(counts[filled][~inside].sum())
        return cls(zeros=zeros, below=below, first=first, counts=tuple(int(count) for count in found))

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """What ``to_dict`` gave."""
        numbers = {name: int(stored[name]) for name in ("zeros", "below", "first")}
        return cls(**numbers, counts=tuple(map(int, stored["counts"])))

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    @property
    def total(self) -> int:
        """How many magnitudes there are."""
        return self.zeros + self.below + sum(self.counts)

    def edges(self) -> Floats:
        """The limits of the bins, one more than bins."""
        return 2.0 ** ((self.first + np.arange(len(self.counts) + 1)) / PER_OCTAVE)

    def points(self, largest: float) -> tuple[Floats, Floats]:
        """Magnitudes that may stand for those counted, rising, and how often each occurred: bins are filled evenly.

        >>> values, counts = LogCounts(zeros=2, below=0, first=0, counts=(32,)).points(1.16)
        >>> values.round(3).tolist()[:3], counts.tolist()[:3]
        ([0.0, 1.005, 1.015], [2.0, 2.0, 2.0])
        """
        edges = np.minimum(self.edges(), largest)
        places = (np.arange(_POINTS) + 0.5) / _POINTS
        inside = (edges[:-1, None] + np.diff(edges)[:, None] * places).ravel()
        values = np.concatenate([[0.0, edges[0] / 2], inside])
        counts = np.concatenate([[self.zeros, self.below], np.repeat(self.counts, _POINTS) / _POINTS])
        return values[counts > 0], counts[counts > 0]
