"""The methods that turn a histogram into a range, one file each; importing this package registers them.

A new method is one file here with a function and its ``register_method``.
"""

from calibration.ranges import entropy, maximum, mse, percentile
from calibration.ranges.base import METHODS, RangeMethod, find_range, register_method, require_method

__all__ = [
    "METHODS",
    "RangeMethod",
    "entropy",
    "find_range",
    "maximum",
    "mse",
    "percentile",
    "register_method",
    "require_method",
]
