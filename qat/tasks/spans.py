"""Spans of a context: its windows of tokens, the best span between two rows of logits, and the text it stands for."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from qat.tasks.base import Encoded

LONGEST_ANSWER = 30
"""Tokens of an answer at most, as in transformers' own question answering."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and where in the context it starts, in characters."""

    text: str
    start: int


@dataclass(frozen=True, slots=True)
class Window:
    """One window of a context: the tokens of one encoded row.

    Attributes:
        question: which question it belongs to, counted from 0.
        context: the whole context.
        first: the place of the context's first token in the row.
        offsets: where each token of the context starts and ends in it, in characters, ``(tokens, 2)``.
        answers: the right answers, none where the rows have no labels.
    """

    question: int
    context: str
    first: int
    offsets: NDArray[np.int64]
    answers: tuple[Answer, ...]

    def locate(self, answer: Answer) -> tuple[int, int] | None:
        """The row's first and last token of an answer; None where the window does not hold it whole.

        >>> window = Window(0, "a bad idea", 4, np.array([[2, 5], [6, 10]]), ())
        >>> window.locate(Answer("idea", 6)), window.locate(Answer("a bad", 0))
        ((5, 5), None)
        """
        starts, ends = self.offsets[:, 0], self.offsets[:, 1]
        stop = answer.start + len(answer.text)
        if not len(starts) or answer.start < starts[0] or stop > ends[-1]:
            return None
        begin, end = int((ends <= answer.start).sum()), int((starts < stop).sum()) - 1
        return None if begin > end else (self.first + begin, self.first + end)


@dataclass(frozen=True, slots=True)
class EncodedSpans(Encoded):
    """Windows as token ids; a question has as many rows as its context needs.

    Attributes:
        windows: what each row is a window of.
    """

    windows: Sequence[Window] = ()

    @property
    def scored(self) -> int:
        """How many questions there are."""
        return len({window.question for window in self.windows})

    def pick(self, index: Iterable[int]) -> Self:
        """Those windows, in that order."""
        rows = list(index)
        return replace(self, features=[self.features[row] for row in rows], windows=[self.windows[row] for row in rows])


def find_best_span(
    start: NDArray[np.floating], end: NDArray[np.floating], longest: int = LONGEST_ANSWER
) -> tuple[float, int, int]:
    """The largest sum of a start logit and an end logit not before it, and the two places.

    Args:
        start: of each token, ``(tokens,)``.
        end: likewise.
        longest: tokens from the start to the end at most, both counted.

    >>> find_best_span(np.array([0.0, 3.0, 1.0]), np.array([5.0, 0.0, 2.0]))
    (5.0, 0, 0)
    >>> find_best_span(np.array([0.0, 3.0, 1.0]), np.array([1.0, 0.0, 2.0]), longest=1)
    (3.0, 1, 1)
    """
    best = (-np.inf, 0, 0)
    for more in range(min(longest, len(start))):
        sums = start[: len(start) - more] + end[more:]
        place = int(sums.argmax())
        if sums[place] > best[0]:
            best = (float(sums[place]), place, place + more)
    return best


def find_answers(
    windows: Sequence[Window], start: NDArray[np.floating], end: NDArray[np.floating]
) -> dict[int, tuple[int, int]]:
    """By question, where its answer starts and ends in the context, in characters: the best span of its windows.

    Args:
        windows: of each row.
        start: logits ``(rows, tokens)``; only those of the context count.
        end: likewise.
    """
    return {question: found.place for question, found in find_spans(windows, start, end).items()}


@dataclass(frozen=True, slots=True)
class Span:
    """A question's best span: its characters in the context, and how likely it is.

    The score is the product of two probabilities: that the answer starts at the one token of all the question's
    windows, and that it ends at the other.
    """

    place: tuple[int, int]
    score: float


def find_spans(windows: Sequence[Window], start: NDArray[np.floating], end: NDArray[np.floating]) -> dict[int, Span]:
    """The best span of every question; arguments as ``find_answers``. A context without a token has none.

    >>> window = Window(0, "a bad idea", 1, np.array([[0, 1], [2, 5], [6, 10]]), ())
    >>> starts, ends = np.log([[9, 0.1, 0.8, 0.1], [9, 0.1, 0.4, 0.5]])
    >>> found = find_spans([window], starts[None], ends[None])[0]
    >>> found.place, round(found.score, 6)
    ((2, 10), 0.4)
    """
    best: dict[int, tuple[float, int, int]] = {}
    totals: dict[int, tuple[float, float]] = {}
    for window, starts, ends in zip(windows, start, end, strict=True):
        if not len(window.offsets):
            continue
        own = slice(window.first, window.first + len(window.offsets))
        score, first, last = find_best_span(starts[own], ends[own])
        if score > best.get(window.question, (-np.inf, 0, 0))[0]:
            best[window.question] = (score, int(window.offsets[first, 0]), int(window.offsets[last, 1]))
        before = totals.get(window.question, (-np.inf, -np.inf))
        totals[window.question] = (
            float(np.logaddexp.reduce(starts[own].astype(np.float64), initial=before[0])),
            float(np.logaddexp.reduce(ends[own].astype(np.float64), initial=before[1])),
        )
    return {
        question: Span((first, last), float(np.exp(score - sum(totals[question]))))
        for question, (score, first, last) in best.items()
    }
