"""The heads text classification has: one label a text, several, or a number; the checkpoint's configuration says which.

Each reads its labels, scores logits ``(rows, labels)`` and says where two models answer alike.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax
from scipy.stats import pearsonr, spearmanr
from transformers import PreTrainedConfig

from qat.errors import DataError
from qat.tasks.base import Prediction, Value
from qat.tasks.labels import describe_value, label_numbers, rank_labels, read_label
from qat.tasks.tally import Tally, count_sums, divide

_SAME_NUMBER = 0.01
"""Two regressions agree where they differ by no more than this share of the answers' spread."""

Logits = NDArray[np.floating]


class Head(ABC):
    """How one ``problem_type`` reads labels and judges logits."""

    problem_type: ClassVar[str]

    @abstractmethod
    def read(self, value: object, known: Mapping[str, int], *, place: str) -> Value:
        """The label of one row as the model's loss takes it.

        Raises:
            DataError: it is none; ``place`` says where.
        """

    @abstractmethod
    def count(self, logits: Logits, labels: NDArray[np.generic]) -> Tally:
        """What the metrics need of these answers."""

    @abstractmethod
    def conclude(self, tally: Tally) -> dict[str, float]:
        """The metrics by name, the headline first."""

    def score(self, logits: Logits, labels: NDArray[np.generic]) -> dict[str, float]:
        """The metrics of all answers."""
        return self.conclude(self.count(logits, labels))

    @abstractmethod
    def tell(self, logits: Logits, names: Sequence[str], top: int) -> Prediction:
        """What the logits of one row say, ``(labels,)``; ``top`` as in ``Asked``."""

    @abstractmethod
    def agree(self, first: Logits, second: Logits) -> NDArray[np.bool_]:
        """For each row whether both answer the same."""


class SingleLabel(Head):
    """One of several labels: accuracy."""

    problem_type = "single_label_classification"

    def read(self, value: object, known: Mapping[str, int], *, place: str) -> int:
        """The label's number."""
        return read_label(value, known, place=place)

    def count(self, logits: Logits, labels: NDArray[np.generic]) -> Tally:
        """Rows whose largest logit is the label's, labels ``(rows,)``, and all rows."""
        return count_sums(right=float((logits.argmax(axis=1) == labels).sum()), n=len(labels))

    def conclude(self, tally: Tally) -> dict[str, float]:
        """The share of right rows.

        >>> logits = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
        >>> SingleLabel().score(logits, np.array([1, 0, 0])) == {"accuracy": 2 / 3}
        True
        """
        return {"accuracy": divide(tally, "right")}

    def tell(self, logits: Logits, names: Sequence[str], top: int) -> Prediction:
        """The likeliest label and its probability.

        >>> told = SingleLabel().tell(np.log([0.25, 0.75]), ["plant", "tool"], 1)
        >>> told["label"], round(told["score"], 6)
        ('tool', 0.75)
        """
        return rank_labels(names, softmax(logits.astype(np.float64)), top)

    def agree(self, first: Logits, second: Logits) -> NDArray[np.bool_]:
        """The same largest logit."""
        same: NDArray[np.bool_] = first.argmax(axis=1) == second.argmax(axis=1)
        return same


class MultiLabel(Head):
    """Any number of labels, each taken where its logit is positive: F1 over all of them."""

    problem_type = "multi_label_classification"

    def read(self, value: object, known: Mapping[str, int], *, place: str) -> list[float]:
        """1 for each label the row has, 0 for the others."""
        if not isinstance(value, list | tuple):
            raise DataError(f"{place}: the label {describe_value(value)}; expected a list of labels, it may be empty")
        numbers = {read_label(each, known, place=place) for each in value}
        return [float(number in numbers) for number in range(len(known))]

    def count(self, logits: Logits, labels: NDArray[np.generic]) -> Tally:
        """Labels that were rightly taken, that were taken, and that are right, labels ``(rows, labels)`` 0 or 1."""
        taken, right = logits > 0, labels.astype(np.bool_)
        return count_sums(hits=float((taken & right).sum()), said=float(taken.sum()), there=float(right.sum()))

    def conclude(self, tally: Tally) -> dict[str, float]:
        """The micro-averaged F1 of the labels taken, 0 where none is right.

        >>> logits = np.array([[2.0, -1.0, 3.0], [-1.0, -2.0, 1.0]])
        >>> MultiLabel().score(logits, np.array([[1, 0, 0], [0, 0, 1]]))
        {'f1_micro': 0.8}
        """
        both = float(tally["said"] + tally["there"])
        return {"f1_micro": 2 * float(tally["hits"]) / both if both else 0.0}

    def tell(self, logits: Logits, names: Sequence[str], top: int) -> Prediction:
        """The labels taken with their probabilities, the likeliest first; ``top`` changes nothing.

        >>> MultiLabel().tell(np.array([-1.0, 0.5, 4.0]), ["plant", "tool", "place"], 1)["labels"][1]["label"]
        'tool'
        """
        scores = expit(logits.astype(np.float64))
        taken = [place for place in np.argsort(-logits, kind="stable") if logits[place] > 0]
        return {"labels": [{"label": names[place], "score": float(scores[place])} for place in taken]}

    def agree(self, first: Logits, second: Logits) -> NDArray[np.bool_]:
        """The same labels taken."""
        same: NDArray[np.bool_] = ((first > 0) == (second > 0)).all(axis=1)
        return same


class Regression(Head):
    """A number: correlations with the labels."""

    problem_type = "regression"

    def read(self, value: object, known: Mapping[str, int], *, place: str) -> float:
        """The number."""
        try:
            number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise DataError(f"{place}: the label {describe_value(value)}; expected a finite number (a regression head)")
        return number

    def count(self, logits: Logits, labels: NDArray[np.generic]) -> Tally:
        """Every answer and every label: ranks are of all of them."""
        return {"answers": logits[:, 0].astype(np.float64), "labels": labels.astype(np.float64)}

    def conclude(self, tally: Tally) -> dict[str, float]:
        """Spearman's rank correlation and Pearson's, both 0 where all answers or all labels are the same.

        >>> scores = Regression().score(np.array([[0.0], [1.0], [9.0]]), np.array([1.0, 2.0, 3.0]))
        >>> round(scores["spearman"], 3), round(scores["pearson"], 3)
        (1.0, 0.912)
        """
        answers, wanted = tally["answers"], tally["labels"]
        if np.ptp(answers) == 0 or np.ptp(wanted) == 0:
            return {"spearman": 0.0, "pearson": 0.0}
        correlations = {"spearman": spearmanr, "pearson": pearsonr}
        return {name: float(correlate(answers, wanted).statistic) for name, correlate in correlations.items()}

    def tell(self, logits: Logits, names: Sequence[str], top: int) -> Prediction:
        """The number.

        >>> Regression().tell(np.array([2.5]), ["LABEL_0"], 1)
        {'value': 2.5}
        """
        return {"value": float(logits[0])}

    def agree(self, first: Logits, second: Logits) -> NDArray[np.bool_]:
        """Numbers that differ by at most a hundredth of the distance between the largest and the smallest answer."""
        same: NDArray[np.bool_] = np.abs(first - second)[:, 0] <= _SAME_NUMBER * np.ptp(first)
        return same


HEADS = {head.problem_type: head for head in (SingleLabel(), MultiLabel(), Regression())}


def find_head(config: PreTrainedConfig) -> Head:
    """The head of a checkpoint, as transformers tells them apart: by ``problem_type``, else one label is a regression.

    Raises:
        DataError: a problem type there is no head for, or that does not fit the number of labels.
    """
    labels = len(label_numbers(config))
    kind = getattr(config, "problem_type", None) or ("regression" if labels == 1 else SingleLabel.problem_type)
    fits = labels == 1 if kind == "regression" else labels > 1
    if kind not in HEADS or not fits:
        raise DataError(
            f"the checkpoint's head has problem_type {kind!r} and {labels} in label2id: text-classification expects "
            f"regression with one, or {SingleLabel.problem_type} or {MultiLabel.problem_type} with two or more"
        )
    return HEADS[kind]
