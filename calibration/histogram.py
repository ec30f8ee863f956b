"""A histogram of magnitudes in constant memory whose range grows by doubling, so that merging bins is exact."""

import math

import torch
from torch import Tensor

_SMALLEST_LIMIT = 2.0**-100
"""Far below every scale in use; at a smaller one the bins for each unit would leave FP32."""


class Histogram:
    """Counts of magnitudes in equal bins over ``[0, limit)``, ``limit`` a power of two that doubles when outgrown.

    Two neighbouring bins become one at every doubling, so the counts are those a histogram of the final range would
    have found in one pass.
    """

    def __init__(self, bins: int = 4096) -> None:
        self.bins = bins
        self.limit = 0.0
        self.counts = torch.zeros(bins, dtype=torch.int64)
        self.largest = 0.0

    def update(self, magnitudes: Tensor) -> None:
        """Counts non-negative finite ``magnitudes`` of any shape."""
        flat = magnitudes.to(torch.float32).flatten()
        self.largest = max(self.largest, float(flat.max()))
        self._grow()
        if self.limit == 0.0:
            self.counts[0] += flat.numel()
            return
        index = (flat * (self.bins / self.limit)).long().clamp_(max=self.bins - 1)
        self.counts += torch.bincount(index, minlength=self.bins).cpu()

    def _grow(self) -> None:
        if self.largest < self.limit or self.largest == 0.0:
            return
        wanted = max(2.0 ** (math.floor(math.log2(self.largest)) + 1), _SMALLEST_LIMIT)
        if self.limit == 0.0:
            self.limit = wanted
        while self.limit < wanted:
            merged = self.counts.reshape(-1, 2).sum(dim=1)
            self.counts = torch.cat([merged, torch.zeros_like(merged)])
            self.limit *= 2

    def percentile(self, percent: float) -> float:
        """The upper edge of the bin in which the cumulative count reaches ``percent`` of all, at most the largest seen.

        >>> histogram = Histogram(bins=8)
        >>> histogram.update(torch.arange(8.0))
        >>> histogram.percentile(50.0), histogram.percentile(100.0)
        (4.0, 7.0)
        """
        total = int(self.counts.sum())
        if total == 0 or self.limit == 0.0:
            return 0.0
        needed = math.ceil(total * percent / 100.0)
        reached = int(torch.searchsorted(self.counts.cumsum(0), torch.tensor(needed)))
        return min((reached + 1) * self.limit / self.bins, self.largest)
