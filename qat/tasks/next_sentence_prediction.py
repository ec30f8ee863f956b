"""Next sentence prediction: whether the second text of a pair follows the first; scored by accuracy."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from transformers import AutoModelForNextSentencePrediction, PreTrainedConfig, PreTrainedTokenizerBase

from qat.data import Rows
from qat.errors import DataError
from qat.tasks.base import Asked, Columns, Encoded, Feature, Outputs, Prediction, Task
from qat.tasks.labels import describe_value, read_integer
from qat.tasks.tally import Tally, count_sums, divide
from qat.tasks.texts import encode_columns


class NextSentencePrediction(Task):
    """Whether a text follows another: 0 where it does, 1 where it is any other text, as transformers counts."""

    name = "next-sentence-prediction"
    columns = Columns(required=("text", "text_pair"), optional=(), label=("label",))
    auto_class = AutoModelForNextSentencePrediction

    def encode(
        self,
        rows: Rows,
        *,
        tokenizer: PreTrainedTokenizerBase,
        config: PreTrainedConfig,
        max_length: int | None = None,
        require_labels: bool = True,
    ) -> Encoded:
        """The pairs as token ids; of what is too long the longer text loses its end first.

        Arguments and errors as ``Task.encode``; also a DataError for a label that is neither 0 nor 1.
        """
        self.check_columns(rows, require_labels=require_labels)
        tokens, length, cut = encode_columns(rows, tokenizer=tokenizer, config=config, max_length=max_length)
        features: list[Feature] = [*tokens]
        if "label" in rows.columns:
            labels = read_pair_labels(rows, yes="the second text follows the first", no="it does not")
            features = [{**feature, "labels": label} for feature, label in zip(tokens, labels, strict=True)]
        return Encoded(features, length, cut, rows.source)

    def count(self, outputs: Outputs, rows: Encoded) -> Tally:
        """Rows whose largest logit is the right one's, from logits ``(rows, answers)``, and all rows."""
        right = outputs["logits"].argmax(axis=1) == rows.read("labels")
        return count_sums(right=float(right.sum()), n=len(rows))

    def conclude(self, tally: Tally, rows: Encoded) -> dict[str, float]:
        """The share of pairs judged right, from logits ``(rows, 2)``.

        >>> rows = Encoded([{"labels": 1}, {"labels": 0}], max_length=8, truncated=0, source="two rows")
        >>> NextSentencePrediction().score({"logits": np.array([[0.1, 0.9], [0.3, 0.7]])}, rows)
        {'accuracy': 0.5}
        """
        return {"accuracy": divide(tally, "right")}

    def explain(self, outputs: Outputs, asked: Asked) -> list[Prediction]:
        """Of each pair whether the second text ``follows`` the first, and the ``score`` of that answer."""
        return [
            {"follows": int(pair.argmax()) == 0, "score": float(pair.max())}
            for pair in softmax(outputs["logits"].astype(np.float64), axis=1)
        ]

    def agree(self, first: Outputs, second: Outputs, rows: Encoded) -> NDArray[np.bool_]:
        """For each pair whether both judge it alike."""
        same: NDArray[np.bool_] = first["logits"].argmax(axis=1) == second["logits"].argmax(axis=1)
        return same


def read_pair_labels(rows: Rows, *, yes: str, no: str) -> list[int]:
    """The labels of pairs of texts.

    Args:
        rows: with a column ``label``.
        yes: what 0 means, for the error.
        no: what 1 means.

    Raises:
        DataError: anything but 0 and 1.
    """
    labels = []
    for number, row in rows.numbered():
        label = read_integer(row.get("label"))
        if label not in (0, 1):
            raise DataError(
                f"{rows.source}, row {number}: the label {describe_value(row.get('label'))}; expected 0 ({yes}) "
                f"or 1 ({no})"
            )
        labels.append(label)
    return labels
