"""``percentile``: a given share of the magnitudes is kept, the rest clipped."""

import math

from calibration.histogram import Histogram
from calibration.ranges.base import register_method
from calibration.settings import CalibrationSettings


@register_method("percentile")
def find_percentile(histogram: Histogram, settings: CalibrationSettings) -> float:
    """The order statistic of ``settings.percentile``, to the nearest FP16 number."""
    return read_percentile(histogram, settings.percentile)


def read_percentile(histogram: Histogram, percent: float) -> float:
    """The smallest magnitude that ``percent`` of all do not exceed (Hyndman and Fan 1996, definition 1).

    >>> import torch
    >>> histogram = Histogram()
    >>> histogram.update(torch.arange(8.0))
    >>> read_percentile(histogram, 50.0), read_percentile(histogram, 100.0)
    (3.0, 7.0)
    """
    values, counts = histogram.points()
    reached = counts.cumsum()
    needed = math.ceil(reached[-1] * percent / 100.0)
    return float(values[reached.searchsorted(needed)])
