"""``entropy``: the range that loses least information, as TensorRT's calibrator has it.

Migacz, "8-bit inference with TensorRT" (GTC 2017): of the magnitudes in 2048 equal bins, the first ``i`` are kept, what
lies beyond them joins the last one (P), and the same bins quantized to 128 levels, each level's count spread over its
filled bins (Q), are compared by ``KL(P || Q)``. As in pytorch-quantization and ModelOpt (``calib/histogram.py``), the
bin at zero counts as much as its neighbour, since zeros cost nothing in any range, ``i`` runs over 128..2048, and of
equal divergences the widest range wins. A range whose last bin holds nothing of its own but receives what was clipped
has an infinite divergence.
"""

import numpy as np

from calibration.histogram import Floats, Histogram
from calibration.ranges.base import register_method
from calibration.settings import CalibrationSettings

_BINS, _LEVELS = 2048, 128


@register_method("entropy")
def find_entropy(histogram: Histogram, settings: CalibrationSettings) -> float:
    """The upper edge of the last bin kept by the range of the least divergence."""
    found = divergences(histogram.rebin(_BINS))
    kept = _BINS - int(found[::-1].argmin())
    return histogram.largest * kept / _BINS


def divergences(counts: Floats) -> Floats:
    """``KL(P || Q)`` for every number of kept bins from 128 to all.

    Args:
        counts: ``(bins,)``, the last one not empty.

    >>> divergences(np.ones(256)).argmin(), divergences(np.ones(256))[-1].round(12)
    (np.int64(128), np.float64(0.0))
    """
    counts = counts.copy()
    counts[0] = counts[1]
    kept = np.arange(_LEVELS, len(counts) + 1)
    edges = -(-kept[:, None] * np.arange(_LEVELS + 1) // _LEVELS)
    below = np.append(0.0, counts.cumsum())
    total = below[-1]
    filled = np.append(0, (counts > 0).cumsum())
    masses, sizes = np.diff(below[edges], axis=1), np.diff(filled[edges], axis=1)
    inside, last = below[kept], counts[kept - 1]
    clipped = total - inside
    own = np.append(0.0, _x_log_x(counts).cumsum())[kept - 1] + _x_log_x(last + clipped)
    shares = np.log(np.divide(masses, sizes, out=np.ones_like(masses), where=(sizes > 0) & (masses > 0)))
    reference = masses.copy()
    reference[:, -1] += clipped
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (own - (reference * shares).sum(axis=1)) / total - np.log(total) + np.log(inside)
    return np.where((inside > 0) & ((last > 0) | (clipped == 0)), found, np.inf)


def _x_log_x(x: Floats) -> Floats:
    return x * np.log(np.where(x > 0, x, 1.0))
