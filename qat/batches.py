"""Encoded rows as padded batches: NumPy arrays for any runner, torch tensors for a model or the Trainer.

Batches are padded on the right to their own longest row.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from qat.errors import DataError
from qat.tasks.base import IGNORED_LABEL, Encoded, Feature, Value

Order = Literal["given", "length", "shuffled"]
IntArrays = dict[str, NDArray[np.int64]]
Numbers = dict[str, NDArray[np.generic]]
Entry = TypeVar("Entry")

TARGETS = frozenset({"labels", "start_positions", "end_positions", "next_sentence_label", "sentence_order_label"})
"""What transformers' heads call what they are scored against; all else is an input."""


def find_pad(tokenizer: PreTrainedTokenizerBase) -> int:
    """The number that fills short rows up, 0 where the tokenizer names none."""
    return int(tokenizer.pad_token_id or 0)


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows padded to one length.

    Attributes:
        index: which rows they are, shape ``(batch,)``.
        inputs: what a model infers from, each ``(batch, tokens)`` int64, in multiple choice
            ``(batch, choices, tokens)``.
        targets: what it is scored against, as ``labels`` ``(batch,)``; empty where the rows have none. Numbers are
            float32, all else int64.
    """

    index: NDArray[np.int64]
    inputs: IntArrays
    targets: Numbers

    def to_tensors(self, device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
        """Inputs and targets as tensors on ``device``, named as a transformers model takes them."""
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
        """The rows as one batch on the CPU, types and shapes as ``pad_features`` gives them."""
        padded = pad_features(features, pad_token_id=self.pad_token_id)
        return {name: torch.from_numpy(array) for name, array in padded.items()}


def drop_targets(batch: Mapping[str, Entry]) -> dict[str, Entry]:
    """What a model infers from, of a batch that may have labels.

    >>> drop_targets({"input_ids": 1, "start_positions": 2, "end_positions": 3})
    {'input_ids': 1}
    """
    return {name: value for name, value in batch.items() if name not in TARGETS}


def has_targets(batch: Mapping[str, object]) -> bool:
    """Whether a batch, or a row, has anything to be scored against.

    >>> has_targets({"input_ids": [1]}), has_targets({"input_ids": [1], "labels": 0})
    (False, True)
    """
    return not TARGETS.isdisjoint(batch)


def pad_features(features: Sequence[Feature], *, pad_token_id: int) -> dict[str, NDArray[Any]]:
    """One array for each name: ``(batch, longest)`` for lists, ``(batch,)`` for numbers, whole ones int64.

    Lists of lists, as long in every row, become ``(batch, lists, longest)``. ``input_ids`` are padded with
    ``pad_token_id``, ``labels`` with -100, all else with 0.

    >>> pad_features([{"input_ids": [5, 6]}, {"input_ids": [7]}], pad_token_id=9)["input_ids"].tolist()
    [[5, 6], [7, 9]]
    >>> pad_features([{"input_ids": [[5, 6], [7]]}], pad_token_id=9)["input_ids"].tolist()
    [[[5, 6], [7, 9]]]
    """
    fill = {"input_ids": pad_token_id, "labels": IGNORED_LABEL}
    return {name: _pad_column([feature[name] for feature in features], fill.get(name, 0)) for name in features[0]}


def _pad_column(values: Sequence[Value], fill: int) -> NDArray[Any]:
    first = values[0]
    if not isinstance(first, list):
        return np.array(values, dtype=np.float32 if isinstance(first, float) else np.int64)
    several = isinstance(first[0], list)
    rows: list[Any] = [each for value in values for each in value] if several else list(values)  # type: ignore[union-attr]
    kind = np.float32 if isinstance(rows[0][0], float) else np.int64
    padded = np.full((len(rows), max(map(len, rows))), fill, dtype=kind)
    for row, value in zip(padded, rows, strict=True):
        row[: len(value)] = value
    return padded.reshape(len(values), len(first), -1) if several else padded


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
        yield Batch(chosen, drop_targets(padded), {name: padded[name] for name in padded if name in TARGETS})


def _arrange_rows(encoded: Encoded, order: Order, seed: int) -> NDArray[np.int64]:
    match order:
        case "given":
            return np.arange(len(encoded), dtype=np.int64)
        case "length":
            return np.argsort(-encoded.lengths, kind="stable").astype(np.int64)
        case "shuffled":
            return np.random.default_rng(seed).permutation(len(encoded)).astype(np.int64)


def restore_order(parts: Iterable[tuple[Batch, NDArray[Any]]]) -> NDArray[Any]:
    """The outputs of every batch as one array ``(rows, ...)``, in the order of the rows.

    Args:
        parts: each batch with what was computed from it, one output a row, shapes alike but for the batch; the second
            axis may differ too (tokens), and what a batch lacks there is not a number.

    Raises:
        DataError: no batches.

    >>> rows = Encoded([{"input_ids": [1]}, {"input_ids": [2, 3]}], max_length=8, truncated=0, source="two rows")
    >>> batches = iterate_batches(rows, batch_size=1, pad_token_id=0, order="length")
    >>> restore_order((batch, batch.inputs["input_ids"][:, 0]) for batch in batches).tolist()
    [1, 2]
    """
    indices: list[NDArray[np.int64]] = []
    outputs: list[NDArray[Any]] = []
    for batch, output in parts:
        indices.append(batch.index)
        outputs.append(output)
    if not outputs:
        raise DataError("no batches: expected at least one")
    longest = max(output.shape[1] if output.ndim > 1 else 0 for output in outputs)
    gathered: NDArray[Any] = np.concatenate([_widen(output, longest) for output in outputs])
    return gathered[np.argsort(np.concatenate(indices), kind="stable")]


def _widen(output: NDArray[Any], longest: int) -> NDArray[Any]:
    if output.ndim == 1 or output.shape[1] == longest:
        return output
    widths = [(0, 0), (0, longest - output.shape[1]), *[(0, 0)] * (output.ndim - 2)]
    return np.pad(output, widths, constant_values=np.nan)
