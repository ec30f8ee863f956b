"""What a task is: the columns it reads, how rows become token ids, and how logits become a score."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from qat.data import Rows, load_rows
from qat.errors import DataError, suggest

Feature = Mapping[str, list[int] | int]
"""One encoded row: ``input_ids`` and ``attention_mask``, lists of one length, and what else its model takes."""

_LONGEST_SANE = 1_000_000
"""Tokenizers that know no limit say 10**30; anything above this is no limit."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns a task reads: those it needs, those it takes where they are there, and the one that is the label."""

    required: tuple[str, ...]
    optional: tuple[str, ...]
    label: str

    @property
    def names(self) -> tuple[str, ...]:
        """Every column of the task."""
        return (*self.required, *self.optional, self.label)


@dataclass(frozen=True, slots=True)
class Encoded:
    """Rows as token ids, in the order of the rows; a map-style dataset that ``transformers.Trainer`` takes.

    Attributes:
        features: one for each row, not padded.
        max_length: how many tokens a row keeps at most.
        truncated: how many rows were longer than that and lost their end.
        source: what error messages call the rows.
    """

    features: Sequence[Feature]
    max_length: int
    truncated: int
    source: str

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> Feature:
        return self.features[index]

    def __iter__(self) -> Iterator[Feature]:
        return iter(self.features)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, shape ``(rows,)``."""
        return np.array([count_tokens(feature) for feature in self.features], dtype=np.int64)


class Task(ABC):
    """A head's task: named as Hugging Face names it, scored by one number where higher is better.

    Attributes:
        name: what ``--task`` calls it.
        columns: what it reads from a row.
        auto_class: the transformers class that loads a checkpoint with this task's head.
        metric_name: what ``score`` answers.
        outputs: the fields of the model's output that it scores; what an exported graph answers.
    """

    name: ClassVar[str]
    columns: ClassVar[Columns]
    auto_class: ClassVar[type[Any]]
    metric_name: ClassVar[str]
    outputs: ClassVar[tuple[str, ...]] = ("logits",)

    @abstractmethod
    def encode(
        self,
        rows: Rows,
        *,
        tokenizer: PreTrainedTokenizerBase,
        config: PreTrainedConfig,
        max_length: int | None = None,
        require_labels: bool = True,
    ) -> Encoded:
        """The rows as token ids, with labels where the rows have them.

        Args:
            rows: columns named as in ``columns``.
            tokenizer: the checkpoint's.
            config: the checkpoint's; it knows the labels and the longest text.
            max_length: tokens a row keeps, special tokens included; ``None`` for the most the checkpoint takes.
            require_labels: whether rows without the label column are an error; calibration needs none.

        Raises:
            DataError: a missing column or value, an unknown label, a ``max_length`` the checkpoint does not take.
        """

    @abstractmethod
    def score(self, logits: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
        """The metric over all rows.

        Raises:
            DataError: no rows.
            RangeError: logits that are not finite.
        """

    def load(
        self,
        source: str | Path,
        *,
        columns: Mapping[str, str],
        limit: int | None = None,
        require_labels: bool = True,
    ) -> Rows:
        """The rows of ``source`` with every column this task needs, under the task's names.

        Raises:
            DataError: ``columns`` names one the task does not read, or as ``qat.data.load_rows``.
        """
        for name in columns:
            if name not in self.columns.names:
                known = suggest(name, self.columns.names)
                raise DataError(f"--columns names '{name}', which {self.name} does not read: {known}")
        rows = load_rows(source, columns=columns, limit=limit)
        self.check_columns(rows, require_labels=require_labels)
        return rows

    def check_columns(self, rows: Rows, *, require_labels: bool) -> None:
        """Nothing, where the rows have every column the task needs.

        Raises:
            DataError: no rows, or a column that is missing.
        """
        if not len(rows):
            raise DataError(f"{rows.source} has no rows: expected at least one")
        needed = (*self.columns.required, *((self.columns.label,) if require_labels else ()))
        there = rows.columns
        for name in needed:
            if name not in there:
                needs = f"{self.name} needs {', '.join(needed)}, the rows have {', '.join(there)}"
                raise DataError(f"{rows.source} has no column '{name}': {needs}; use --columns {name}=...")


def count_tokens(feature: Feature) -> int:
    """The number of tokens of one encoded row."""
    tokens = feature["input_ids"]
    return len(tokens) if isinstance(tokens, list) else 1


def read_text(rows: Rows, column: str) -> list[str]:
    """The texts of one column, one for each row.

    Raises:
        DataError: a row without the column, or whose value is not text.
    """
    texts: list[str] = []
    for number, row in enumerate(rows, start=1):
        value = row.get(column)
        if not isinstance(value, str):
            found = "is empty" if value is None else f"is {value!r} ({type(value).__name__})"
            raise DataError(f"{rows.source}, row {number}: column '{column}' {found}; expected text")
        texts.append(value)
    return texts


def resolve_max_length(
    asked: int | None, *, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, pair: bool
) -> int:
    """The tokens a row keeps at most: what was asked for, or else the most that tokenizer and model both take.

    Raises:
        DataError: more than the model has positions for, or too few for one token of each text.
    """
    positions = getattr(config, "max_position_embeddings", None)
    if asked is None:
        limits = [n for n in (tokenizer.model_max_length, positions) if n is not None and 0 < n <= _LONGEST_SANE]
        if not limits:
            raise DataError("neither tokenizer nor checkpoint says how long a text may be: use --max-length")
        return int(min(limits))
    if positions is not None and asked > positions:
        raise DataError(
            f"max length {asked} is more than the {positions} positions of the checkpoint: use --max-length {positions}"
        )
    least = tokenizer.num_special_tokens_to_add(pair=pair) + (2 if pair else 1)
    if asked < least:
        raise DataError(f"max length {asked} leaves no room for a token: expected {least} or more")
    return asked
