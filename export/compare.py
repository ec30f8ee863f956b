"""Agreement between two runners: end to end over batches, and tensor by tensor in INT8 steps on the same inputs."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from export.runners.base import Arrays, Runner
from qat.answers import read_choices
from qat.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How far two runners agree.

    Attributes:
        rows: how many rows both answered.
        same_argmax: the share of rows whose largest value has the same index, of every output that ends with
            ``logits`` (of the first where none does) and at every real token; of a single value there is no other
            index, and only the difference tells.
        largest_difference: the largest absolute difference of any output value.
    """

    rows: int
    same_argmax: float
    largest_difference: float


def compare(
    first: Runner,
    second: Runner,
    batches: Iterable[Mapping[str, NDArray[np.generic]]],
    *,
    progress: Callable[[int], None] = lambda rows: None,
) -> Agreement:
    """The agreement of two runners that are fed the same batches.

    Args:
        first: an open runner.
        second: an open runner with the same outputs.
        batches: inputs by name.
        progress: called after each batch with the rows done so far.

    Raises:
        DataError: no batches, or outputs of different names or shapes.
    """
    rows, same, largest = 0, 0, 0.0
    for batch in batches:
        left, right = first.infer(batch), second.infer(batch)
        _require_same_outputs(left, right, first.name, second.name)
        agree = _same_argmax(left, right, batch.get("attention_mask"))
        same += int(agree.sum())
        rows += len(agree)
        largest = max(largest, *(_largest_difference(left[name], right[name]) for name in left))
        progress(rows)
    if rows == 0:
        raise DataError("no batches were given to compare on: at least one is needed")
    return Agreement(rows=rows, same_argmax=same / rows, largest_difference=largest)


def _same_argmax(left: Arrays, right: Arrays, mask: NDArray[np.generic] | None) -> NDArray[np.bool_]:
    batch = {} if mask is None else {"attention_mask": torch.from_numpy(mask)}
    ours, theirs = (
        read_choices({name: torch.from_numpy(array) for name, array in each.items()}, batch) for each in (left, right)
    )
    same = [(ours[name] == theirs[name]).reshape(len(ours[name]), -1) for name in ours]
    found: NDArray[np.bool_] = torch.cat(same, dim=1).all(dim=1).numpy()
    return found


def _largest_difference(left: NDArray[np.generic], right: NDArray[np.generic]) -> float:
    return float(np.abs(left.astype(np.float64) - right.astype(np.float64)).max())


def _require_same_outputs(left: Arrays, right: Arrays, first: str, second: str) -> None:
    shapes = [{name: array.shape for name, array in each.items()} for each in (left, right)]
    if shapes[0] != shapes[1]:
        raise DataError(
            f"the runners answer differently: {first} {shapes[0]}, {second} {shapes[1]}; give twins of one model"
        )
