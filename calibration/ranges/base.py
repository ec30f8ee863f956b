"""What a method is: a histogram in, a range out."""

from collections.abc import Callable

from calibration.histogram import Histogram
from calibration.settings import ALL, BEST, CalibrationSettings
from qat.errors import RecipeError, suggest

RangeMethod = Callable[[Histogram, CalibrationSettings], float]
"""The range ``amax`` of a tensor whose magnitudes the histogram holds, at least one and none infinite or NaN."""

METHODS: dict[str, RangeMethod] = {}
"""Every method by its name."""


def register_method(name: str) -> Callable[[RangeMethod], RangeMethod]:
    """A decorator that makes a method known under ``name``; a second one of that name is an error."""

    def register(method: RangeMethod) -> RangeMethod:
        if name in METHODS:
            raise ValueError(f"range method '{name}' is registered twice")
        METHODS[name] = method
        return method

    return register


def find_range(name: str, histogram: Histogram, settings: CalibrationSettings) -> float:
    """The range that method gives; 0 where nothing but zeros was seen."""
    return METHODS[name](histogram, settings) if histogram.largest > 0 else 0.0


def require_method(name: str) -> None:
    """Passes for a method that exists, ``best`` or ``all``.

    Raises:
        RecipeError: an unknown one.
    """
    known = (BEST, *METHODS, ALL)
    if name not in known:
        raise RecipeError(f"calibration method '{name}' is unknown: {suggest(name, known)}")
