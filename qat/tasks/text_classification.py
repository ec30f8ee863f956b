"""Text classification: one sentence or a pair gets a label, several, or a number; the checkpoint's head says which."""

import numpy as np
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedTokenizerBase

from qat.data import Rows
from qat.tasks.base import Asked, Columns, Encoded, Feature, Outputs, Prediction, Task
from qat.tasks.heads import HEADS, Head, SingleLabel, find_head
from qat.tasks.labels import label_numbers, name_labels
from qat.tasks.tally import Tally
from qat.tasks.texts import encode_columns


class TextClassification(Task):
    """A label for each text or pair of texts; what it is and how it is scored, the head decides (``qat.tasks.heads``).

    Labels in the data are names of the checkpoint's ``label2id``, or its integers; of a multi-label head lists of
    those; of a regression numbers. Segment ids (``token_type_ids``) are given for pairs only.
    """

    name = "text-classification"
    columns = Columns(required=("text",), optional=("text_pair",), label=("label",))
    auto_class = AutoModelForSequenceClassification
    kinds = tuple(HEADS)

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

        Arguments and errors as ``Task.encode``; also a DataError for a head that is none of ours.
        """
        self.check_columns(rows, require_labels=require_labels)
        head, known = find_head(config), label_numbers(config)
        tokens, length, cut = encode_columns(rows, tokenizer=tokenizer, config=config, max_length=max_length)
        features: list[Feature] = [*tokens]
        if "label" in rows.columns:
            labels = [
                head.read(row.get("label"), known, place=f"{rows.source}, row {number}")
                for number, row in rows.numbered()
            ]
            features = [{**feature, "labels": label} for feature, label in zip(tokens, labels, strict=True)]
        return Encoded(features, length, cut, rows.source, problem_type=head.problem_type)

    def count(self, outputs: Outputs, rows: Encoded) -> Tally:
        """What the head's metrics need: sums, or of a regression every answer."""
        return _head_of(rows).count(outputs["logits"], rows.read("labels"))

    def conclude(self, tally: Tally, rows: Encoded) -> dict[str, float]:
        """The head's metrics: accuracy, micro-averaged F1, or Spearman's and Pearson's correlation."""
        return _head_of(rows).conclude(tally)

    def explain(self, outputs: Outputs, asked: Asked) -> list[Prediction]:
        """Of each text ``label`` and ``score``; of several labels ``labels``, of a regression ``value``."""
        logits = outputs["logits"]
        names = name_labels(asked.config, logits.shape[1])
        return [_head_of(asked.encoded).tell(row, names, asked.top) for row in logits]

    def agree(self, first: Outputs, second: Outputs, rows: Encoded) -> NDArray[np.bool_]:
        """For each row whether the head's answer is the same."""
        return _head_of(rows).agree(first["logits"], second["logits"])


def _head_of(rows: Encoded) -> Head:
    return HEADS[rows.problem_type or SingleLabel.problem_type]
