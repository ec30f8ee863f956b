"""``mse``: the range whose INT8 numbers lie closest to the values, in the mean square.

The error of a range is ``sum(count * (value - round_to_int8(value))^2)`` over the histogram, rounding and clipping
together, as in Choukroun et al. 2019 (arXiv 1902.06822), section 3.
"""

import numpy as np

from calibration.histogram import Floats, Histogram
from calibration.ranges.base import register_method
from calibration.settings import CalibrationSettings
from qat.spec import INT8_MAX

_OCTAVES, _PER_OCTAVE = 8, 16
"""How far below the largest value ranges are tried, and how densely: neighbours differ by 4 %."""


@register_method("mse")
def find_mse(histogram: Histogram, settings: CalibrationSettings) -> float:
    """The one of 129 ranges, from the largest value down to a 256th of it, with the least squared error."""
    tried = list_ranges(histogram.largest)
    return float(tried[squared_errors(*histogram.points(), tried).argmin()])


def list_ranges(largest: float) -> Floats:
    """The ranges to try, falling from ``largest``, equally spaced on a logarithmic scale."""
    return largest * 2.0 ** (-np.arange(_OCTAVES * _PER_OCTAVE + 1) / _PER_OCTAVE)


def squared_errors(values: Floats, weights: Floats, ranges: Floats) -> Floats:
    """The weighted squared error of INT8 for each of ``ranges``.

    Args:
        values: magnitudes, rising.
        weights: how much each of them counts.
        ranges: the clipping points; the step is ``range / 127``.

    A level holds what lies within half a step of it, so the error needs only sums over the values above the 127
    boundaries, not each value: with those sums ``n`` and ``m`` of weights and weighted values above ``(q - 1/2) s``, it
    is ``sum(w v^2) - 2 s sum(m) + s^2 sum((2 q - 1) n)``.

    >>> squared_errors(np.array([1.0, 2.0, 127.0]), np.ones(3), np.array([127.0, 254.0])).tolist()
    [0.0, 2.0]
    """
    steps = ranges[:, None] / INT8_MAX
    levels = np.arange(1, INT8_MAX + 1)
    first = values.searchsorted(steps * (levels - 0.5), side="right")
    above = _sum_from(weights)[first]
    sums_above = _sum_from(weights * values)[first]
    whole = float((weights * values**2).sum())
    errors = whole - 2 * steps[:, 0] * sums_above.sum(axis=1) + steps[:, 0] ** 2 * (above @ (2.0 * levels - 1))
    return np.asarray(np.maximum(errors, 0.0))


def _sum_from(x: Floats) -> Floats:
    """At each place the sum of the rest of ``x``, and a zero at the end."""
    return np.append(x[::-1].cumsum()[::-1], 0.0)
