"""Values like those of an encoder's activations, the same to the bit wherever NumPy runs.

Only raw bits of a generator (whose stream NumPy keeps) and elementwise ``+ - * /`` and square roots are used: they are
exact by IEEE 754, so that a range another tool found in these values can be compared with ours without a tolerance.
"""

import numpy as np
from numpy.typing import NDArray

VALUES = 20_011
"""No round number: no percentile falls exactly on the border between two values."""
NAMES = ("normal", "heavy tails", "relu", "gelu", "outlier dimensions")

_BITS = 2.0**-53


def draw(name: str) -> NDArray[np.float32]:
    """The values of one of ``NAMES``, ``(VALUES,)``."""
    bits = np.random.Philox(key=NAMES.index(name))
    values = _DRAWS[name](bits)
    return values.astype(np.float32)


def _normal(bits: np.random.Philox) -> NDArray[np.float64]:
    """Nearly normal: the sum of twelve uniform numbers less their mean (Irwin and Hall)."""
    total = np.full(VALUES, -6.0)
    for _ in range(12):
        total = total + (bits.random_raw(VALUES) >> np.uint64(11)) * _BITS
    return total


def _heavy(bits: np.random.Philox) -> NDArray[np.float64]:
    """Student's t of three degrees of freedom, from its definition."""
    squares = _normal(bits) ** 2 + _normal(bits) ** 2 + _normal(bits) ** 2
    return _normal(bits) / np.sqrt(squares / 3.0)


def _relu(bits: np.random.Philox) -> NDArray[np.float64]:
    return np.maximum(_normal(bits), 0.0)


def _gelu(bits: np.random.Philox) -> NDArray[np.float64]:
    """``x`` times the share of values below ``x``, which is what the normal distribution function approaches."""
    values = 2.0 * _normal(bits)
    return values * (values.argsort().argsort() + 0.5) / VALUES


def _outliers(bits: np.random.Philox) -> NDArray[np.float64]:
    """A residual: of 250 channels one is forty times as wide as the others."""
    values = _normal(bits)
    values[::250] *= 40.0
    return values


_DRAWS = {"normal": _normal, "heavy tails": _heavy, "relu": _relu, "gelu": _gelu, "outlier dimensions": _outliers}
