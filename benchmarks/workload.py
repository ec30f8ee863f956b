"""Realistic batches to time: real tokens, real lengths, real padding.

Zeros or ones flatter an engine (no padding to skip, one cache line of the embedding table), so every feed here is cut
and joined from rows that a tokenizer wrote for real text.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qat.errors import DataError, RecipeError, suggest

Feed = dict[str, NDArray[np.int64]]

KNOWN_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_SHAPE = re.compile(r"([0-9]+)[xX×]([0-9]+)")


@dataclass(frozen=True)
class Workload:
    """A shape to feed: ``batch`` examples of ``sequence`` tokens, padded with ``pad_id``.

    ``choices`` is the number of rows an example has in multiple choice; the arrays are then
    ``(batch, choices, sequence)`` instead of ``(batch, sequence)``.

    Raises:
        RecipeError: a size is below 1.
    """

    batch: int
    sequence: int
    pad_id: int = 0
    choices: int | None = None

    def __post_init__(self) -> None:
        for name, size in (("batch", self.batch), ("sequence", self.sequence), ("choices", self.choices)):
            if size is not None and size < 1:
                raise RecipeError(f"a workload with {name} {size}: expected at least 1; give a larger {name}")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of every array of a feed.

        >>> Workload(8, 128).shape, Workload(8, 128, choices=4).shape
        ((8, 128), (8, 4, 128))
        """
        return (self.batch, self.sequence) if self.choices is None else (self.batch, self.choices, self.sequence)


def parse_shapes_list(text: str) -> tuple[tuple[int, int], ...]:
    """The ``(batch, sequence)`` pairs of a ``--shapes`` list, in order, each once.

    >>> parse_shapes_list("1x128, 8x128")
    ((1, 128), (8, 128))

    Raises:
        RecipeError: an item is not two whole numbers above 0 joined by ``x``.
    """
    pairs = []
    for item in text.split(","):
        found = _SHAPE.fullmatch(item.strip())
        pair = (int(found[1]), int(found[2])) if found else (0, 0)
        if min(pair) < 1:
            raise RecipeError(
                f"the shape {item.strip()!r} in --shapes {text!r}: expected BATCHxSEQUENCE, two whole numbers above 0; "
                "write it like 1x128,8x128"
            )
        pairs.append(pair)
    return tuple(dict.fromkeys(pairs))


def rescale_lengths(lengths: NDArray[np.int64], sequence: int) -> NDArray[np.int64]:
    """The lengths stretched or shrunk together so that the longest is ``sequence``; none falls below 1.

    >>> rescale_lengths(np.array([5, 10, 20]), 128)
    array([ 32,  64, 128])
    """
    stretched: NDArray[np.float64] = np.rint(lengths * (sequence / lengths.max()))
    return stretched.clip(min=1).astype(np.int64)


def make_batches(
    rows: Sequence[Sequence[int]],
    workload: Workload,
    *,
    inputs: Collection[str] = KNOWN_INPUTS,
    count: int = 8,
    seed: int = 0,
) -> list[Feed]:
    """``count`` different feeds of the workload's shape, INT64, the same for the same seed.

    A batch draws rows at random and keeps the proportions of their real lengths: all are rescaled by one factor, so
    that the longest fills the sequence. A row that becomes longer than it was goes on with the tokens of further
    rows; its first and its last token (``[CLS]`` and ``[SEP]``, with most tokenizers) stay at its ends.

    Args:
        rows: encoded texts, unpadded, as the tokenizer gives them.
        workload: the shape, and the id that pads.
        inputs: the names the model takes: ``input_ids``, ``attention_mask`` (1 on tokens, 0 on padding),
            ``token_type_ids`` (all 0: one segment).
        count: how many batches.
        seed: where the draw starts.

    Raises:
        DataError: there are no rows, a row is empty, or a name is not one of the three.
    """
    for name in inputs:
        if name not in KNOWN_INPUTS:
            raise DataError(
                f"the model's input {name!r}: a workload cannot make it, {suggest(name, KNOWN_INPUTS)}; "
                "time this model from your own script with time_paired"
            )
    if not rows or min(map(len, rows)) == 0:
        given = "no rows" if not rows else "an empty row"
        raise DataError(f"{given} of token ids: expected encoded texts; give --data with at least one text")
    rng = np.random.default_rng(seed)
    return [_make_batch(rows, workload, inputs, rng) for _ in range(count)]


def _make_batch(
    rows: Sequence[Sequence[int]], workload: Workload, inputs: Collection[str], rng: np.random.Generator
) -> Feed:
    *leading, sequence = workload.shape
    drawn = [rows[index] for index in rng.integers(len(rows), size=int(np.prod(leading)))]
    lengths = rescale_lengths(np.array([len(row) for row in drawn], dtype=np.int64), sequence)
    ids = np.full((len(drawn), sequence), workload.pad_id, dtype=np.int64)
    for place, (row, length) in enumerate(zip(drawn, lengths.tolist(), strict=True)):
        ids[place, :length] = _fit_row(row, length, rows, rng)
    mask = (np.arange(sequence) < lengths[:, None]).astype(np.int64)
    made = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return {name: made[name].reshape(workload.shape) for name in KNOWN_INPUTS if name in inputs}


def _fit_row(
    row: Sequence[int], length: int, rows: Sequence[Sequence[int]], rng: np.random.Generator
) -> NDArray[np.int64]:
    """``length`` tokens: the row's first and last, and between them its own, then those of rows drawn at random."""
    between = list(row[1:-1])
    while len(between) < length - 2:
        further = rows[int(rng.integers(len(rows)))]
        between += further[1:-1] or further
    whole = [row[0], *between[: max(length - 2, 0)], row[-1]]
    return np.array(whole[:length], dtype=np.int64)
