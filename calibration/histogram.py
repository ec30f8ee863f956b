"""A histogram of magnitudes in constant memory: a bin for each number FP16 has, so that merging is exact.

A value counts in the bin of the nearest FP16 number, which is found by one conversion and read off its bits: bins lie
2^-10 apart relative to their value, from 6e-8 to 65504, whatever the tensor's range. Nothing has to be known or grown
beforehand, and a sum of two histograms is the histogram of all their values.
"""

from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]

_NUMBERS = 0x7C00
"""How many magnitudes FP16 has; the bits of infinity, which hold what lies beyond 65504."""

_MAGNITUDE_BITS = 0x7FFF
_BINS = _MAGNITUDE_BITS + 1
"""One for each bit pattern; those of NaN stay empty, because calibration refuses them."""


def _list_bins() -> tuple[Floats, Floats]:
    """The FP16 magnitudes, and the edges between those that round to one and those that round to the next."""
    numbers = np.arange(_NUMBERS, dtype=np.uint16).view(np.float16).astype(np.float64)
    middles = (numbers[1:] + numbers[:-1]) / 2
    return numbers, np.concatenate([[0.0], middles, [65520.0, np.inf]])


_VALUES, _EDGES = _list_bins()


def magnitude_bits(x: Tensor) -> Tensor:
    """The bits of the FP16 number nearest to each magnitude, as integers in ``x``'s shape.

    >>> magnitude_bits(torch.tensor([-1.0, 0.0, 2.0**-24])).tolist()
    [15360, 0, 1]
    """
    return x.detach().to(torch.float16, copy=True).view(torch.int16).bitwise_and_(_MAGNITUDE_BITS)


class Histogram:
    """Counts of magnitudes by FP16 number, and the largest magnitude exactly; on the device of what it was given.

    >>> histogram = Histogram()
    >>> histogram.update(torch.tensor([0.5, -0.5, 3.0]))
    >>> values, counts = histogram.points(); values.tolist(), counts.tolist(), histogram.largest
    ([0.5, 3.0], [2.0, 1.0], 3.0)
    """

    def __init__(self) -> None:
        self.counts = torch.zeros(_BINS, dtype=torch.int64)
        self.peak = torch.zeros(())

    @property
    def largest(self) -> float:
        """The largest magnitude seen, in FP32; not finite where a value was not."""
        return float(self.peak)

    def update(self, x: Tensor, bits: Tensor | None = None) -> None:
        """Counts the magnitudes of ``x``, of any shape and sign, at least one value.

        Args:
            x: the values.
            bits: their ``magnitude_bits``, where a caller has them already.
        """
        x = x.detach()
        bits = magnitude_bits(x) if bits is None else bits
        self.to(x.device)
        low, high = torch.aminmax(x)  # unlike the bins, exact; and NaN comes out of it as NaN
        self.peak = torch.maximum(self.peak, torch.maximum(-low, high).to(torch.float32))
        self.counts += torch.bincount(bits.flatten(), minlength=_BINS)

    def raise_to(self, largest: float) -> None:
        """Takes note of the largest magnitude of values that were counted elsewhere, a NaN where there was one."""
        self.peak = torch.maximum(self.peak, torch.tensor(largest))

    def merge(self, other: Self) -> None:
        """Adds all that ``other`` has counted."""
        self.counts += other.counts.to(self.counts.device)
        self.peak = torch.maximum(self.peak, other.peak.to(self.peak.device))

    def to(self, device: torch.device) -> None:
        """Moves the counts."""
        if self.counts.device != device:
            self.counts, self.peak = self.counts.to(device), self.peak.to(device)

    def points(self) -> tuple[Floats, Floats]:
        """The magnitudes that occurred, rising, none above ``largest``, and how often each did."""
        counts = self.counts[: _NUMBERS + 1].cpu().numpy()
        (filled,) = counts.nonzero()
        values = np.concatenate([_VALUES, [np.inf]])[filled]
        return np.minimum(values, self.largest), counts[filled].astype(np.float64)

    def rebin(self, bins: int) -> Floats:
        """The counts in ``bins`` equal bins over ``[0, largest]``; a bin that spans an edge gives each side its share.

        >>> histogram = Histogram()
        >>> histogram.update(torch.tensor([0.0, 0.3, 0.9, 2.5, 4.0]))
        >>> histogram.rebin(4).tolist()
        [3.0, 0.0, 1.0, 1.0]
        """
        counts = self.counts[: _NUMBERS + 1].cpu().numpy()
        (filled,) = counts.nonzero()
        ends = np.stack([_EDGES[filled], _EDGES[filled + 1]], axis=1).ravel()
        reached = np.cumsum(counts[filled]).astype(np.float64)
        below = np.stack([reached - counts[filled], reached], axis=1).ravel()
        edges = np.linspace(0.0, self.largest, bins + 1)
        return np.asarray(np.diff(np.interp(edges, np.minimum(ends, self.largest), below)))
