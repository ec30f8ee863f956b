"""Encoded rows as padded batches: NumPy arrays for any runner, torch tensors for a model or the Trainer.

Batches are padded on the right to their own longest row.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from qat.errors import DataError
from qat.tasks.base import Encoded, Feature

Order = Literal["given", "length", "shuffled"]
IntArrays = dict[str, NDArray[np.int64]]
Number = TypeVar("Number", bound=np.generic)

_INPUTS = frozenset({"input_ids", "attention_mask", "token_type_ids"})
_IGNORED_LABEL = -100
"""What torch's cross entropy leaves out, and so what padded tokens are labelled."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows padded to one length.

    Attributes:
        index: which rows they are, shape ``(batch,)``.
        inputs: what a model infers from, each ``(batch, tokens)`` int64.
        targets: what it is scored against, as ``labels`` ``(batch,)``; empty where the rows have none.
    """

    index: NDArray[np.int64]
    inputs: IntArrays
    targets: IntArrays

    def to_tensors(self, device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
        """Inputs and targets as int64 tensors on ``device``, named as a transformers model takes them."""
        return {name: torch.from_numpy(array).to(device) for name, array in (self.inputs | self.targets).items()}


@dataclass(frozen=True, slots=True)
class Collator:
    """Encoded rows to padded tensors, as ``transformers.Trainer`` wants its ``data_collator``.

    >>> rows = [{"input_ids": [5, 6], "labels": 1}, {"input_ids": [7], "labels": 0}]
    >>> Collator(pad_token_id=0)(rows)["input_ids"].tolist()
    [[5, 6], [7, 0]]
    """

    pad_token_id: int

    def __call__(self, features: Sequence[Feature]) -> dict[str, torch.Tensor]:
        """The rows as one batch, int64 on the CPU, shapes as ``pad_features`` gives them."""
        padded = pad_features(features, pad_token_id=self.pad_token_id)
        return {name: torch.from_numpy(array) for name, array in padded.items()}


def pad_features(features: Sequence[Feature], *, pad_token_id: int) -> IntArrays:
    """One int64 array for each name: ``(batch, longest)`` for lists, ``(batch,)`` for numbers.

    ``input_ids`` are padded with ``pad_token_id``, ``labels`` with -100, all else with 0.

    >>> pad_features([{"input_ids": [5, 6]}, {"input_ids": [7]}], pad_token_id=9)["input_ids"].tolist()
    [[5, 6], [7, 9]]
    """
    fill = {"input_ids": pad_token_id, "labels": _IGNORED_LABEL}
    return {name: _pad_column([feature[name] for feature in features], fill.get(name, 0)) for name in features[0]}


def _pad_column(values: Sequence[list[int] | int], fill: int) -> NDArray[np.int64]:
    lists = [value for value in values if isinstance(value, list)]
    if not lists:
        return np.array(values, dtype=np.int64)
    padded = np.full((len(lists), max(map(len, lists))), fill, dtype=np.int64)
    for row, value in zip(padded, lists, strict=True):
        row[: len(value)] = value
    return padded


def iterate_batches(
    encoded: Encoded, *, batch_size: int, pad_token_id: int, order: Order = "given", seed: int = 0
) -> Iterator[Batch]:
    """Every row once, in batches of ``batch_size`` (the last may be smaller).

    Args:
        encoded: the rows.
        batch_size: rows in a batch.
        pad_token_id: what ``input_ids`` are padded with.
        order: ``given`` as the rows come; ``length`` longest first, which pads least and meets the largest batch at
            once; ``shuffled`` by ``seed``.
        seed: of the shuffle; the same seed gives the same batches.

    Raises:
        DataError: a batch size below 1.
    """
    if batch_size < 1:
        raise DataError(f"batch size {batch_size} holds no rows: expected 1 or more")
    index = _arrange_rows(encoded, order, seed)
    for start in range(0, len(index), batch_size):
        chosen = index[start : start + batch_size]
        padded = pad_features([encoded[int(row)] for row in chosen], pad_token_id=pad_token_id)
        inputs = {name: array for name, array in padded.items() if name in _INPUTS}
        yield Batch(chosen, inputs, {name: array for name, array in padded.items() if name not in _INPUTS})


def _arrange_rows(encoded: Encoded, order: Order, seed: int) -> NDArray[np.int64]:
    match order:
        case "given":
            return np.arange(len(encoded), dtype=np.int64)
        case "length":
            return np.argsort(-encoded.lengths, kind="stable").astype(np.int64)
        case "shuffled":
            return np.random.default_rng(seed).permutation(len(encoded)).astype(np.int64)


def restore_order(parts: Iterable[tuple[Batch, NDArray[Number]]]) -> NDArray[Number]:
    """The outputs of every batch as one array ``(rows, ...)``, in the order of the rows.

    Args:
        parts: each batch with what was computed from it, one output a row, shapes alike but for the batch.

    Raises:
        DataError: no batches.

    >>> rows = Encoded([{"input_ids": [1]}, {"input_ids": [2, 3]}], max_length=8, truncated=0, source="two rows")
    >>> batches = iterate_batches(rows, batch_size=1, pad_token_id=0, order="length")
    >>> restore_order((batch, batch.inputs["input_ids"][:, 0]) for batch in batches).tolist()
    [1, 2]
    """
    indices: list[NDArray[np.int64]] = []
    outputs: list[NDArray[Number]] = []
    for batch, output in parts:
        indices.append(batch.index)
        outputs.append(output)
    if not outputs:
        raise DataError("no batches: expected at least one")
    gathered: NDArray[Number] = np.concatenate(outputs)[np.argsort(np.concatenate(indices), kind="stable")]
    return gathered
