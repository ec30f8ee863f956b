"""Rows to ask, and predictions compared: the same words, numbers but for their last digits."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from qat.data import Row
from qat.tasks import find_task
from qat.tasks.base import Prediction
from tests.tiny import tiny_tokenizer
from tests.tiny_heads import HEADS, head_rows
from tests.tolerances import TOLD


def make_rows(head: str, n: int = 12) -> list[Row]:
    """Rows to ask, without labels; of masked words the second is hidden."""
    hidden = HEADS[head].task in ("fill-mask", "pretraining")
    rows = head_rows(head, n).without(find_task(HEADS[head].task).columns.label)
    return [{**row, "text": f"ba {tiny_tokenizer().mask_token} {row['text']}"} if hidden else row for row in rows]


def flatten(told: Any) -> list[Any]:
    """Every value of a prediction, numbers as an array of their own at the end."""
    if isinstance(told, Mapping):
        return [each for name, value in told.items() for each in (name, *flatten(value))]
    return [each for value in told for each in flatten(value)] if isinstance(told, list) else [told]


def count_other(first: list[Prediction], second: list[Prediction]) -> int:
    """How many predictions are not the same but for the last digits of their numbers."""

    def alike(one: Prediction, other: Prediction) -> bool:
        pairs = list(zip(flatten(one), flatten(other), strict=False))
        numbers = np.array([pair for pair in pairs if isinstance(pair[0], float)], np.float64).reshape(-1, 2)
        same = all(a == b for a, b in pairs if not isinstance(a, float)) and len(flatten(one)) == len(flatten(other))
        return same and bool((np.abs(numbers[:, 0] - numbers[:, 1]) <= TOLD.value).all())

    assert len(first) == len(second)
    return sum(not alike(one, other) for one, other in zip(first, second, strict=True))
