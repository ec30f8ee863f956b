"""``max``: nothing is clipped."""

from calibration.histogram import Histogram
from calibration.ranges.base import register_method
from calibration.settings import CalibrationSettings


@register_method("max")
def find_max(histogram: Histogram, settings: CalibrationSettings) -> float:
    """The largest magnitude seen, exactly."""
    return histogram.largest
