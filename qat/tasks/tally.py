"""What a metric needs of rows that have been answered, so that a file of any size is scored part by part."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tally = Mapping[str, NDArray[Any]]
"""Sums, which are single numbers and add up; and columns ``(answers, ...)``, which are joined, of metrics that rank."""


def count_sums(**sums: float) -> Tally:
    """A tally of sums alone.

    >>> {name: float(value) for name, value in count_sums(right=3, n=4).items()}
    {'right': 3.0, 'n': 4.0}
    """
    return {name: np.float64(value) * np.ones(()) for name, value in sums.items()}


def add_tallies(first: Tally, second: Tally) -> Tally:
    """The tally of the rows of both, which have the same entries.

    >>> parts = [{"n": np.array(1.0), "said": np.array([5])}, {"n": np.array(2.0), "said": np.array([6, 7])}]
    >>> {name: value.tolist() for name, value in add_tallies(*parts).items()}
    {'n': 3.0, 'said': [5, 6, 7]}
    """
    return {
        name: np.asarray(value + second[name]) if value.ndim == 0 else np.concatenate([value, second[name]])
        for name, value in first.items()
    }


def divide(tally: Tally, part: str, whole: str = "n") -> float:
    """One sum by another; 0 where that is 0.

    >>> divide(count_sums(right=3, n=4), "right"), divide(count_sums(right=0, n=0), "right")
    (0.75, 0.0)
    """
    return float(tally[part] / tally[whole]) if tally[whole] else 0.0
