"""Text classification: one sentence or a pair gets one of the checkpoint's labels; scored by accuracy."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from numbers import Integral

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedTokenizerBase

from qat.data import Rows
from qat.errors import DataError, RangeError
from qat.tasks.base import Columns, Encoded, Feature, Task, read_text, resolve_max_length

_INTEGER = re.compile(r"\s*-?[0-9]+\s*")


class TextClassification(Task):
    """One label for each text or pair of texts.

    Labels in the data are names of the checkpoint's ``label2id``, or its integers. Segment ids (``token_type_ids``)
    are given for pairs only.
    """

    name = "text-classification"
    columns = Columns(required=("text",), optional=("text_pair",), label="label")
    auto_class = AutoModelForSequenceClassification
    metric_name = "accuracy"

    def encode(
        self,
        rows: Rows,
        *,
        tokenizer: PreTrainedTokenizerBase,
        config: PreTrainedConfig,
        max_length: int | None = None,
        require_labels: bool = True,
    ) -> Encoded:
        """The texts as token ids; what is too long loses its end, of a pair the longer text first.

        Arguments and errors as ``Task.encode``; also a DataError for a head that is no single-label classifier.
        """
        self.check_columns(rows, require_labels=require_labels)
        _check_head(config)
        text = read_text(rows, "text")
        pair = read_text(rows, "text_pair") if "text_pair" in rows.columns else None
        length = resolve_max_length(max_length, tokenizer=tokenizer, config=config, pair=pair is not None)
        segments = pair is not None and getattr(config, "type_vocab_size", 0) > 1
        tokens = tokenizer(text, pair, return_token_type_ids=segments, return_attention_mask=True, verbose=False)
        lengths = [len(ids) for ids in tokens["input_ids"]]
        too_long = [row for row, count in enumerate(lengths) if count > length]
        features: list[dict[str, list[int] | int]] = [
            {name: values[row] for name, values in tokens.items()} for row in range(len(rows))
        ]
        for row in too_long:
            cut = tokenizer(
                text[row],
                None if pair is None else pair[row],
                truncation=True,
                max_length=length,
                return_token_type_ids=segments,
                return_attention_mask=True,
            )
            features[row] = dict(cut.items())
        if self.columns.label in rows.columns:
            for feature, label in zip(features, _read_labels(rows, self.columns.label, config), strict=True):
                feature["labels"] = label
        encoded: list[Feature] = list(features)
        return Encoded(encoded, max_length=length, truncated=len(too_long), source=rows.source)

    def score(self, logits: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
        """The share of rows whose largest logit is the label's, from logits ``(rows, labels)`` and labels ``(rows,)``.

        Raises:
            DataError: no rows.
            RangeError: logits that are not finite.

        >>> task = TextClassification()
        >>> task.score(np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]]), np.array([1, 0, 0])) == 2 / 3
        True
        """
        if len(labels) == 0:
            raise DataError("no rows to score: expected at least one")
        broken = int((~np.isfinite(logits)).any(axis=1).sum())
        if broken:
            raise RangeError(f"{broken} of {len(labels)} rows have logits that are not finite: nothing can be scored")
        return float(accuracy_score(labels, np.argmax(logits, axis=1)))


def _check_head(config: PreTrainedConfig) -> None:
    kind = getattr(config, "problem_type", None)
    labels = len(config.label2id or {})
    if labels < 2 or kind not in (None, "single_label_classification"):
        head = f"problem_type {kind!r} and {labels} in label2id"
        raise DataError(
            f"the checkpoint's head has {head}: text-classification expects one of two labels or more a row"
        )


def _read_labels(rows: Rows, column: str, config: PreTrainedConfig) -> list[int]:
    known = {str(name): int(number) for name, number in (config.label2id or {}).items()}
    return [
        _read_label(row.get(column), known, place=f"{rows.source}, row {number}")
        for number, row in enumerate(rows, start=1)
    ]


def _read_label(value: object, known: Mapping[str, int], *, place: str) -> int:
    integers = f"0 to {len(known) - 1}"
    if isinstance(value, str) and value in known:
        return known[value]
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        value = int(value)
    if isinstance(value, Integral) and not isinstance(value, bool):
        if int(value) in known.values():
            return int(value)
        raise DataError(f"{place}: label {value} is not one of the checkpoint's {len(known)}: expected {integers}")
    if isinstance(value, str) and _are_default_names(known):
        raise DataError(
            f"{place}: label '{value}' is a name, but the checkpoint's labels have none (LABEL_0, ...): "
            f"give integers, {integers}, or write the names to id2label and label2id in its config.json"
        )
    if isinstance(value, str):
        near = _name_near(value, known)
        raise DataError(f"{place}: label '{value}' is not one of the checkpoint's {len(known)}: {near}")
    found = "is empty" if value is None else f"is {value!r} ({type(value).__name__})"
    raise DataError(f"{place}: the label {found}; expected a name or an integer, {integers}")


def _are_default_names(known: Mapping[str, int]) -> bool:
    return set(known) == {f"LABEL_{number}" for number in range(len(known))}


def _name_near(value: str, known: Mapping[str, int]) -> str:
    close = get_close_matches(value, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"expected a name like '{next(iter(known))}', or its integer"
