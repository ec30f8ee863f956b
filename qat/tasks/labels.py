"""Labels as data spells them: names of a checkpoint's labels, or their integers."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from numbers import Integral

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedConfig

from qat.errors import DataError
from qat.tasks.base import Prediction

_INTEGER = re.compile(r"\s*-?[0-9]+\s*")


def label_numbers(config: PreTrainedConfig) -> dict[str, int]:
    """The numbers of a checkpoint's labels, by name."""
    return {str(name): int(number) for name, number in (config.label2id or {}).items()}


def name_labels(config: PreTrainedConfig, count: int) -> tuple[str, ...]:
    """The names of a checkpoint's labels, in the order of a model's ``count`` answers.

    Raises:
        DataError: it names more or fewer than there are answers.
    """
    names: dict[int, str] = {int(number): str(name) for number, name in (config.id2label or {}).items()}
    if len(names) != count:
        raise DataError(
            f"the model answers {count} labels, but its config.json names {len(names)} (id2label): write the names "
            "there, or give the config.json that belongs to the model"
        )
    return tuple(names[number] for number in range(count))


def rank_labels(names: Sequence[str], scores: NDArray[np.floating], top: int) -> Prediction:
    """The likeliest of several answers with its score, and where more are asked for the next ones too.

    >>> rank_labels(["plant", "tool"], np.array([0.25, 0.75]), 1)
    {'label': 'tool', 'score': 0.75}
    >>> rank_labels(["plant", "tool"], np.array([0.25, 0.75]), 9)["top"][1]
    {'label': 'plant', 'score': 0.25}
    """
    order = np.argsort(-scores, kind="stable")[:top]
    ranked = [{"label": names[place], "score": float(scores[place])} for place in order]
    return dict(ranked[0]) if top == 1 else {**ranked[0], "top": ranked}


def read_label(value: object, known: Mapping[str, int], *, place: str) -> int:
    """The number of one label.

    Args:
        value: its name, or its integer, which may be spelled.
        known: the checkpoint's labels by name.
        place: where it stands, for the error.

    Raises:
        DataError: anything else.

    >>> read_label("tool", {"plant": 0, "tool": 1}, place="row 1"), read_label("1", {"plant": 0, "tool": 1}, place="")
    (1, 1)
    """
    integers = f"0 to {len(known) - 1}"
    if isinstance(value, str) and value in known:
        return known[value]
    number = read_integer(value)
    if number is not None:
        if number in known.values():
            return number
        raise DataError(f"{place}: label {number} is not one of the checkpoint's {len(known)}: expected {integers}")
    if isinstance(value, str) and _are_default_names(known):
        raise DataError(
            f"{place}: label '{value}' is a name, but the checkpoint's labels have none (LABEL_0, ...): "
            f"give integers, {integers}, or write the names to id2label and label2id in its config.json"
        )
    if isinstance(value, str):
        near = _name_near(value, known)
        raise DataError(f"{place}: label '{value}' is not one of the checkpoint's {len(known)}: {near}")
    raise DataError(f"{place}: the label {describe_value(value)}; expected a name or an integer, {integers}")


def read_integer(value: object) -> int | None:
    """The integer a value is or spells; None where it is none.

    >>> read_integer(" 3"), read_integer(True), read_integer(2.0)
    (3, None, None)
    """
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        return int(value)
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None


def describe_value(value: object) -> str:
    """What an error says of a value that cannot be used.

    >>> describe_value(None), describe_value(1.5)
    ('is empty', 'is 1.5 (float)')
    """
    return "is empty" if value is None else f"is {value!r} ({type(value).__name__})"


def _are_default_names(known: Mapping[str, int]) -> bool:
    return set(known) == {f"LABEL_{number}" for number in range(len(known))}


def _name_near(value: str, known: Mapping[str, int]) -> str:
    close = get_close_matches(value, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"expected a name like '{next(iter(known))}', or its integer"
