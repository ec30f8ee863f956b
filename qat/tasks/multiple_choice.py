"""Multiple choice: a question and several answers, one of them right; scored by accuracy."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from transformers import AutoModelForMultipleChoice, PreTrainedConfig, PreTrainedTokenizerBase

from qat.data import Rows
from qat.errors import DataError
from qat.tasks.base import Asked, Columns, Encoded, Feature, Outputs, Prediction, Task
from qat.tasks.labels import describe_value, read_integer
from qat.tasks.tally import Tally, count_sums, divide
from qat.tasks.texts import encode_texts, read_text, resolve_max_length


class MultipleChoice(Task):
    """The number of the right choice, of as many as every row has.

    Each choice is encoded as a pair with the question, so a row holds a list of sequences and a batch is
    ``(batch, choices, tokens)``. Labels count from 0.
    """

    name = "multiple-choice"
    columns = Columns(required=("question", "choices"), optional=(), label=("label",))
    auto_class = AutoModelForMultipleChoice
    axes = ("batch", "choices", "sequence")

    def encode(
        self,
        rows: Rows,
        *,
        tokenizer: PreTrainedTokenizerBase,
        config: PreTrainedConfig,
        max_length: int | None = None,
        require_labels: bool = True,
    ) -> Encoded:
        """Every choice with its question as token ids; of what is too long the longer text loses its end first.

        Arguments and errors as ``Task.encode``; also a DataError for rows whose choices are not equally many.
        """
        self.check_columns(rows, require_labels=require_labels)
        questions, choices = read_text(rows, "question"), _read_choices(rows)
        length = resolve_max_length(max_length, tokenizer=tokenizer, config=config, pair=True)
        count = len(choices[0])
        tokens, too_long = encode_texts(
            [question for question in questions for _ in range(count)],
            [choice for each in choices for choice in each],
            tokenizer=tokenizer,
            config=config,
            length=length,
        )
        features: list[dict[str, list[list[int]] | int]] = [
            {name: [each[name] for each in tokens[start : start + count]] for name in tokens[start]}
            for start in range(0, len(tokens), count)
        ]
        if "label" in rows.columns:
            for feature, label in zip(features, _read_labels(rows, count), strict=True):
                feature["labels"] = label
        encoded: list[Feature] = [*features]
        return Encoded(encoded, length, len({place // count for place in too_long}), rows.source)

    def count(self, outputs: Outputs, rows: Encoded) -> Tally:
        """Rows whose largest logit is the right one's, from logits ``(rows, answers)``, and all rows."""
        right = outputs["logits"].argmax(axis=1) == rows.read("labels")
        return count_sums(right=float(right.sum()), n=len(rows))

    def conclude(self, tally: Tally, rows: Encoded) -> dict[str, float]:
        """The share of rows whose largest logit is the right choice's, from logits ``(rows, choices)``.

        >>> rows = Encoded([{"labels": 1}, {"labels": 0}], max_length=8, truncated=0, source="two rows")
        >>> MultipleChoice().score({"logits": np.array([[0.1, 0.9], [0.3, 0.7]])}, rows)
        {'accuracy': 0.5}
        """
        return {"accuracy": divide(tally, "right")}

    def explain(self, outputs: Outputs, asked: Asked) -> list[Prediction]:
        """Of each row the number of the ``choice``, counted from 0, its ``text`` and its ``score``."""
        chances = softmax(outputs["logits"].astype(np.float64), axis=1)
        chosen = chances.argmax(axis=1)
        return [
            {"choice": int(place), "text": choices[place], "score": float(scores[place])}
            for place, choices, scores in zip(chosen, _read_choices(asked.rows), chances, strict=True)
        ]

    def agree(self, first: Outputs, second: Outputs, rows: Encoded) -> NDArray[np.bool_]:
        """For each row whether the same choice has the largest logit."""
        same: NDArray[np.bool_] = first["logits"].argmax(axis=1) == second["logits"].argmax(axis=1)
        return same


def _read_choices(rows: Rows) -> list[list[str]]:
    found: list[list[str]] = []
    for number, row in rows.numbered():
        value, place = row.get("choices"), f"{rows.source}, row {number}"
        if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
            raise DataError(f"{place}: column 'choices' {describe_value(value)}; expected a list of texts")
        if len(value) < 2:
            raise DataError(f"{place}: {len(value)} choices; expected two or more")
        if found and len(value) != len(found[0]):
            raise DataError(f"{place}: {len(value)} choices, the first row has {len(found[0])}: give all rows as many")
        found.append(list(value))
    return found


def _read_labels(rows: Rows, count: int) -> list[int]:
    labels = []
    for number, row in rows.numbered():
        value, place = row.get("label"), f"{rows.source}, row {number}"
        label = read_integer(value)
        if label is None:
            raise DataError(f"{place}: the label {describe_value(value)}; expected an integer, 0 to {count - 1}")
        if not 0 <= label < count:
            raise DataError(f"{place}: label {label} is none of the {count} choices: expected 0 to {count - 1}")
        labels.append(label)
    return labels
