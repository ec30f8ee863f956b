"""What a task is: the columns it reads, how rows become token ids, and how a model's answers become a score."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from qat.data import Rows, load_rows, stream_rows
from qat.errors import DataError, RecipeError, suggest
from qat.tasks.tally import Tally

Value = list[int] | list[list[int]] | list[float] | int | float
Feature = Mapping[str, Value]
"""One encoded row: ``input_ids`` and ``attention_mask``, lists of one length, and what else its model takes.

A row of several sequences (multiple choice) has a list of such lists in their place.
"""

IGNORED_LABEL = -100
"""What torch's cross entropy leaves out, and so what tokens that count nowhere are labelled."""

Answers = Mapping[str, NDArray[Any]]
"""What a model answers to one batch, by field of its output, ``(batch, ...)``."""

Kept = tuple[NDArray[Any], NDArray[np.bool_]]
"""Values of a batch that are scored, ``(batch, ...)``, and where there is one, a mask that broadcasts."""

Outputs = Mapping[str, NDArray[np.floating]]
"""What is scored, by name, ``(rows, ...)`` in the order of the rows; not a number where there is none."""

Prediction = dict[str, Any]
"""What a model says of one row, as JSON values."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns a task reads: those it needs, those it takes where they are there, and those that are the label."""

    required: tuple[str, ...]
    optional: tuple[str, ...]
    label: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Every column of the task."""
        return (*self.required, *self.optional, *self.label)


@dataclass(frozen=True, slots=True)
class Encoded:
    """Rows as token ids, in the order of the rows; a map-style dataset that ``transformers.Trainer`` takes.

    Attributes:
        features: one for each row, not padded.
        max_length: how many tokens a row keeps at most.
        truncated: how many rows were longer than that and lost their end.
        source: what error messages call the rows.
        problem_type: the checkpoint's head, as transformers calls it, where the task has several.
    """

    features: Sequence[Feature]
    max_length: int
    truncated: int
    source: str
    problem_type: str | None = None

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> Feature:
        return self.features[index]

    def __iter__(self) -> Iterator[Feature]:
        return iter(self.features)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, of its longest sequence where it has several, shape ``(rows,)``."""
        return np.array([max(map(len, list_sequences(feature))) for feature in self.features], dtype=np.int64)

    @property
    def sequences(self) -> list[list[int]]:
        """The token ids of every sequence; a row of multiple choice has one for each choice."""
        return [ids for feature in self.features for ids in list_sequences(feature)]

    @property
    def axes(self) -> tuple[int | str, ...]:
        """The axes of a batch's inputs, those that differ between batches by name.

        >>> Encoded([{"input_ids": [[5, 6], [7]]}], max_length=8, truncated=0, source="a row").axes
        ('batch', 2, 'sequence')
        """
        ids: Any = self.features[0]["input_ids"]
        return ("batch", len(ids), "sequence") if isinstance(ids[0], list) else ("batch", "sequence")

    @property
    def scored(self) -> int:
        """How many answers the task's metric is taken over."""
        return len(self.features)

    def pick(self, index: Iterable[int]) -> Self:
        """Those rows, in that order."""
        return replace(self, features=[self.features[row] for row in index])

    def read(self, name: str) -> NDArray[np.generic]:
        """One entry of every row, as long in each, shape ``(rows, ...)``.

        Raises:
            DataError: a row without it.
        """
        self.require(name)
        return np.array([feature[name] for feature in self.features])

    def require(self, name: str) -> None:
        """Passes where every row has that entry.

        Raises:
            DataError: a row without it.
        """
        if any(name not in feature for feature in self.features):
            raise DataError(f"{self.source} was encoded without {name}: rows without labels cannot be scored")


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a model was asked, for those who read its answers.

    Attributes:
        rows: as they were given.
        encoded: what ``Task.ask`` made of them.
        tokenizer: the checkpoint's.
        config: the checkpoint's.
        top: how many of the likeliest answers to name.
    """

    rows: Rows
    encoded: Encoded
    tokenizer: PreTrainedTokenizerBase
    config: PreTrainedConfig
    top: int = 1


class Task(ABC):
    """A head's task: named as Hugging Face names it, scored by numbers where higher is better.

    Attributes:
        name: what ``--task`` calls it.
        columns: what it reads from a row.
        auto_class: the transformers class that loads a checkpoint with this task's head.
        config: what the configuration of such a checkpoint says beside.
        outputs: the fields of the model's output that it scores; what an exported graph answers.
        token_outputs: those of them that have an entry for each token, ``(rows, tokens, ...)``.
        axes: of the model's inputs, as a batch has them.
        kinds: the heads it tells apart under one class, as ``problem_type`` calls them; none where there is one.
        optional_weights: parts of the names of weights that a checkpoint may lack, because no output depends on them.
        refers: whether what a float model answers is what is right.
        continues: whether what it predicts is said one token after the other.
    """

    name: ClassVar[str]
    columns: ClassVar[Columns]
    auto_class: ClassVar[type[Any]]
    config: ClassVar[Mapping[str, object]] = {}
    outputs: ClassVar[tuple[str, ...]] = ("logits",)
    token_outputs: ClassVar[tuple[str, ...]] = ()
    axes: ClassVar[tuple[str, ...]] = ("batch", "sequence")
    kinds: ClassVar[tuple[str, ...]] = ()
    optional_weights: ClassVar[tuple[str, ...]] = ()
    refers: ClassVar[bool] = False
    continues: ClassVar[bool] = False

    def configure(self, settings: Mapping[str, object]) -> Self:
        """The task with these settings of its own.

        Raises:
            RecipeError: no such setting.
        """
        for name in settings:
            raise RecipeError(f"--set task.{name}: {self.name} has no settings of its own")
        return self

    def settle(self, config: PreTrainedConfig) -> Self:
        """The task with the settings that a quantized or exported checkpoint was made with, for its float original."""
        return self

    def adopt(self, config: PreTrainedConfig, folder: Path) -> PreTrainedConfig:
        """``config``, with what the checkpoint's ``folder`` says of the task elsewhere written into it."""
        return config

    def prepare(self, model: PreTrainedModel) -> PreTrainedModel:
        """``model``, made to answer as its configuration says."""
        return model

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

    def keep(self, answers: Answers, given: Mapping[str, NDArray[Any]]) -> dict[str, Kept]:
        """What of a batch's answers is scored: all of them, of real tokens; less, where all would be too much to keep.

        Args:
            answers: by the names of ``outputs``.
            given: the padded batch, with its labels.
        """
        mask = given["attention_mask"] != 0
        return {
            name: (answers[name], _spread(mask, answers[name]) if name in self.token_outputs else np.ones(1, np.bool_))
            for name in self.outputs
        }

    def ask(
        self,
        rows: Rows,
        *,
        tokenizer: PreTrainedTokenizerBase,
        config: PreTrainedConfig,
        max_length: int | None = None,
    ) -> Encoded:
        """The rows as token ids, to be answered: without their labels, and nothing in them hidden.

        Arguments and errors as ``encode``; also a DataError for a text that is empty.
        """
        bare = rows.without(self.columns.label)
        self.check_columns(bare, require_labels=False)
        bare.require_filled(self.columns.required)
        return self.encode(bare, tokenizer=tokenizer, config=config, max_length=max_length, require_labels=False)

    def hold(self, answers: Answers, given: Mapping[str, NDArray[Any]], top: int) -> dict[str, Kept]:
        """What of a batch's answers to ``ask`` is told; ``top`` as in ``Asked``, the others as in ``keep``."""
        return self.keep(answers, given)

    @abstractmethod
    def explain(self, outputs: Outputs, asked: Asked) -> list[Prediction]:
        """What the answers say, one prediction a row.

        Args:
            outputs: what ``hold`` gave of all rows, finite.
            asked: the rows.

        Raises:
            DataError: answers that do not fit the labels.
        """

    @abstractmethod
    def count(self, outputs: Outputs, rows: Encoded) -> Tally:
        """What the metrics need of these rows.

        Args:
            outputs: what ``keep`` gave of all of them, finite.
            rows: as ``encode`` gave them, with labels.

        Raises:
            DataError: rows without labels.
        """

    @abstractmethod
    def conclude(self, tally: Tally, rows: Encoded) -> dict[str, float]:
        """The metrics by name, the task's headline first.

        Args:
            tally: of all rows, added up.
            rows: any part of them, for what all have alike.

        Raises:
            DataError: nothing to score.
        """

    def score(self, outputs: Outputs, rows: Encoded) -> dict[str, float]:
        """The metrics over all rows by name; arguments and errors as ``count`` and ``conclude``."""
        return self.conclude(self.count(outputs, rows), rows)

    def refer(self, rows: Encoded, outputs: Outputs) -> Encoded:
        """The rows with what the float model answered to them, where that is what is right."""
        return rows

    def name_outputs(self, config: PreTrainedConfig) -> tuple[str, ...]:
        """The ``outputs`` of a checkpoint's head."""
        return self.outputs

    @abstractmethod
    def agree(self, first: Outputs, second: Outputs, rows: Encoded) -> NDArray[np.bool_]:
        """For each answer whether two models that were given the same rows give the same one, shape ``(answers,)``."""

    def find_class(self, config: type[PreTrainedConfig]) -> type[PreTrainedModel] | None:
        """The transformers class with this head for a family's configuration; None where it has none."""
        return cast("type[PreTrainedModel] | None", self.auto_class._model_mapping.get(config, None))

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
        self._check_names(columns)
        rows = load_rows(source, columns=columns, limit=limit)
        self.check_columns(rows, require_labels=require_labels)
        return rows

    def stream(
        self, source: str | Path, *, columns: Mapping[str, str], limit: int | None = None, size: int
    ) -> Iterator[Rows]:
        """The rows of ``load``, ``size`` of them held at a time; labels may be missing.

        Raises:
            DataError: as ``load``; rows that have other columns of this task than the first ones.
        """
        self._check_names(columns)
        first: tuple[str, ...] | None = None
        for rows in stream_rows(source, columns=columns, limit=limit, size=size):
            there = tuple(name for name in self.columns.names if name in rows.columns)
            if first is not None and there != first:
                raise DataError(
                    f"{source}, rows {rows.first} to {rows.first + len(rows) - 1} have the columns "
                    f"{', '.join(there) or 'none'} of {self.name}, the rows before {', '.join(first) or 'none'}: give "
                    "all rows the same ones"
                )
            first = there
            yield rows

    def _check_names(self, columns: Mapping[str, str]) -> None:
        for name in columns:
            if name not in self.columns.names:
                known = suggest(name, self.columns.names)
                raise DataError(f"--columns names '{name}', which {self.name} does not read: {known}")

    def check_columns(self, rows: Rows, *, require_labels: bool) -> None:
        """Nothing, where the rows have every column the task needs.

        Raises:
            DataError: no rows, or a column that is missing.
        """
        if not len(rows):
            raise DataError(f"{rows.source} has no rows: expected at least one")
        needed = (*self.columns.required, *(self.columns.label if require_labels else ()))
        there = rows.columns
        for name in needed:
            if name not in there:
                needs = f"{self.name} needs {', '.join(needed)}, the rows have {', '.join(there)}"
                raise DataError(f"{rows.source} has no column '{name}': {needs}; use --columns {name}=...")


def _spread(mask: NDArray[np.bool_], values: NDArray[Any]) -> NDArray[np.bool_]:
    return mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim))


def list_sequences(feature: Feature) -> list[list[int]]:
    """The sequences of token ids of one encoded row: one, or in multiple choice one for each choice.

    >>> list_sequences({"input_ids": [5, 6]}), list_sequences({"input_ids": [[5], [6]]})
    ([[5, 6]], [[5], [6]])
    """
    ids: Any = feature["input_ids"]
    return ids if isinstance(ids[0], list) else [ids]
