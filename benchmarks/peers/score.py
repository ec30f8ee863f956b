"""Accuracy, and how far apart two quantizers are on the same rows, with the standard error of that difference."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Correct = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Difference:
    """Accuracy of one minus accuracy of the other, and its paired standard error, both in percentage points."""

    points: float
    error: float

    @property
    def clear(self) -> bool:
        """Whether it is more than two standard errors from zero."""
        return abs(self.points) > 2 * self.error


def judge_rows(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> Correct:
    """For each row whether its largest logit is its label's; logits that are not finite are wrong.

    >>> judge_rows(np.array([[0.1, 0.9], [0.8, 0.2], [np.nan, 0.0]]), np.array([1, 1, 0])).tolist()
    [True, False, False]
    """
    finite = np.isfinite(logits).all(axis=-1)
    right: Correct = (logits.argmax(axis=-1) == labels) & finite
    return right


def difference(first: Correct, second: Correct) -> Difference:
    """The paired difference of two quantizers that answered the same rows, none of them fewer than two.

    The error is the standard deviation of the rows' differences (+1, 0 or -1) over the root of their number: rows that
    both got right, or both wrong, say nothing about who is better (the variance behind McNemar's test).

    >>> difference(np.array([True, True, True, False]), np.array([True, False, True, False]))
    Difference(points=25.0, error=25.0)
    """
    apart = first.astype(np.float64) - second
    return Difference(100 * float(apart.mean()), 100 * float(apart.std(ddof=1)) / math.sqrt(len(apart)))


def pack_rows(correct: Correct) -> str:
    """One character a row, for a result file: 1 where it is right.

    >>> pack_rows(np.array([True, False, True]))
    '101'
    """
    return "".join("1" if each else "0" for each in correct)


def unpack_rows(text: str) -> Correct:
    """What ``pack_rows`` was given.

    >>> unpack_rows("101").tolist()
    [True, False, True]
    """
    return np.array([each == "1" for each in text], dtype=np.bool_)
