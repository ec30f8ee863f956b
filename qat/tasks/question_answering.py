"""Question answering: which part of the context answers the question; scored by SQuAD's F1 and exact match."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import AutoModelForQuestionAnswering, PreTrainedConfig, PreTrainedTokenizerBase

from qat.data import Rows
from qat.errors import DataError
from qat.tasks.base import Asked, Columns, Encoded, Feature, Outputs, Prediction, Task
from qat.tasks.labels import describe_value, read_integer
from qat.tasks.spans import Answer, EncodedSpans, Span, Window, find_answers, find_spans
from qat.tasks.tally import Tally, count_sums, divide
from qat.tasks.texts import read_text, resolve_max_length

_OVERLAP = 4
"""Neighbouring windows share this part of a row's tokens: a quarter."""


class QuestionAnswering(Task):
    """The span of the context that answers the question.

    ``answer_start`` counts characters from 0; a row may have several right answers, as two lists, and the model learns
    the first. A context that is too long becomes several overlapping windows, and the best span of all of them is the
    answer; a window without the answer learns ``[CLS]``. A question keeps at most half of the tokens.
    """

    name = "question-answering"
    columns = Columns(required=("question", "context"), optional=(), label=("answer", "answer_start"))
    auto_class = AutoModelForQuestionAnswering
    outputs = ("start_logits", "end_logits")
    token_outputs = outputs

    def encode(
        self,
        rows: Rows,
        *,
        tokenizer: PreTrainedTokenizerBase,
        config: PreTrainedConfig,
        max_length: int | None = None,
        require_labels: bool = True,
    ) -> EncodedSpans:
        """The windows of every row as token ids; ``truncated`` counts the questions that lost their end.

        Arguments and errors as ``Task.encode``; also a DataError for an answer that is not where it is said to be.
        """
        self.check_columns(rows, require_labels=require_labels)
        if config.num_labels != 2:
            raise DataError(
                f"the checkpoint's head has {config.num_labels} labels: question-answering expects 2, for the start "
                "and the end; set num_labels when the head is made"
            )
        if not tokenizer.is_fast:
            raise DataError(f"{type(tokenizer).__name__} does not say where its tokens lie: give a fast tokenizer")
        questions, contexts = read_text(rows, "question"), read_text(rows, "context")
        labelled = all(name in rows.columns for name in self.columns.label)
        answers = _read_answers(rows, contexts) if labelled else [()] * len(contexts)
        length = resolve_max_length(max_length, tokenizer=tokenizer, config=config, pair=True)
        room = length - tokenizer.num_special_tokens_to_add(pair=True)
        questions, cut = _cut_questions(questions, tokenizer, room // 2)
        segments = getattr(config, "type_vocab_size", 0) > 1
        tokens = tokenizer(
            questions,
            contexts,
            truncation="only_second",
            max_length=length,
            stride=room // _OVERLAP,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_token_type_ids=segments,
            return_attention_mask=True,
        )
        owners, offsets = tokens.pop("overflow_to_sample_mapping"), tokens.pop("offset_mapping")
        features: list[Feature] = []
        windows: list[Window] = []
        for row, owner in enumerate(owners):
            parts = tokens.sequence_ids(row)
            inside = [place for place, part in enumerate(parts) if part == 1]
            where = np.array([offsets[row][place] for place in inside], np.int64).reshape(-1, 2)
            window = Window(owner, contexts[owner], inside[0] if inside else 0, where, answers[owner])
            windows.append(window)
            features.append({**{name: values[row] for name, values in tokens.items()}, **_label(window)})
        return EncodedSpans(features, length, cut, rows.source, windows=windows)

    def count(self, outputs: Outputs, rows: Encoded) -> Tally:
        """SQuAD's F1 of words and exact matches, summed over the questions, and how many questions there are."""
        # imported here: it takes seconds, and only this task needs it
        from torchmetrics.functional.text import squad

        rows.require("start_positions")
        windows = _windows_of(rows)
        truth = {window.question: window for window in windows}
        found = find_answers(windows, outputs["start_logits"], outputs["end_logits"])
        said = [
            {"id": str(question), "prediction_text": window.context[slice(*found.get(question, (0, 0)))]}
            for question, window in truth.items()
        ]
        right: list[Any] = [
            {
                "id": str(question),
                "answers": {
                    "text": [answer.text for answer in window.answers],
                    "answer_start": [answer.start for answer in window.answers],
                },
            }
            for question, window in truth.items()
        ]
        scores = squad(said, right)
        sums = {name: float(scores[name]) / 100 * len(truth) for name in ("f1", "exact_match")}
        return count_sums(**sums, n=len(truth))

    def conclude(self, tally: Tally, rows: Encoded) -> dict[str, float]:
        """SQuAD's F1 of words and share of exact matches, each against the best of a question's right answers.

        Rajpurkar et al. 2016 (arXiv 1606.05250), section 6: both without case, punctuation and articles.
        """
        return {name: divide(tally, name) for name in ("f1", "exact_match")}

    def explain(self, outputs: Outputs, asked: Asked) -> list[Prediction]:
        """Of each question the ``answer``, its ``start`` and ``end`` in the context, in characters, and its ``score``.

        The score is as ``qat.tasks.spans.Span`` defines it. A context of which no token is left has an empty answer.
        """
        windows = _windows_of(asked.encoded)
        found = find_spans(windows, outputs["start_logits"], outputs["end_logits"])
        told: dict[int, Prediction] = {}
        for window in windows:
            span = found.get(window.question, Span((0, 0), 0.0))
            start, end = span.place
            told[window.question] = {
                "answer": window.context[start:end], "start": start, "end": end, "score": span.score
            }  # fmt: skip
        return list(told.values())

    def agree(self, first: Outputs, second: Outputs, rows: Encoded) -> NDArray[np.bool_]:
        """For each question whether both answer with the same part of the context."""
        ours, theirs = (
            find_answers(_windows_of(rows), outputs["start_logits"], outputs["end_logits"])
            for outputs in (first, second)
        )
        return np.array([ours[question] == theirs[question] for question in ours], np.bool_)


def _windows_of(rows: Encoded) -> Sequence[Window]:
    assert isinstance(rows, EncodedSpans), "the rows of question answering come from its own encode"
    return rows.windows


def _label(window: Window) -> dict[str, int]:
    if not window.answers:
        return {}
    start, end = window.locate(window.answers[0]) or (0, 0)
    return {"start_positions": start, "end_positions": end}


def _cut_questions(questions: Sequence[str], tokenizer: PreTrainedTokenizerBase, most: int) -> tuple[list[str], int]:
    """The questions without what follows their first ``most`` tokens, and how many were longer."""
    tokens = tokenizer(list(questions), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    kept = list(questions)
    too_long = [row for row, ids in enumerate(tokens["input_ids"]) if len(ids) > most]
    for row in too_long:
        kept[row] = questions[row][: tokens["offset_mapping"][row][most - 1][1]]
    return kept, len(too_long)


def _read_answers(rows: Rows, contexts: Sequence[str]) -> list[tuple[Answer, ...]]:
    return [
        _read_answer(row, context, f"{rows.source}, row {number}")
        for (number, row), context in zip(rows.numbered(), contexts, strict=True)
    ]


def _read_answer(row: Mapping[str, object], context: str, place: str) -> tuple[Answer, ...]:
    texts, starts = (_as_list(row.get(name)) for name in ("answer", "answer_start"))
    if len(texts) != len(starts) or not texts:
        raise DataError(
            f"{place}: {len(texts)} answers and {len(starts)} answer_starts; expected as many of both, one or more"
        )
    found = []
    for text, value in zip(texts, starts, strict=True):
        start = read_integer(value)
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{place}: column 'answer' {describe_value(text)}; expected a part of the context")
        if start is None:
            raise DataError(f"{place}: column 'answer_start' {describe_value(value)}; expected an integer from 0")
        if start < 0 or context[start : start + len(text)] != text:
            raise DataError(
                f"{place}: the context has no '{text}' at answer_start {start}; {_say_where(text, context)}"
            )
        found.append(Answer(text, start))
    return tuple(found)


def _as_list(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _say_where(text: str, context: str) -> str:
    place = context.find(text)
    if place < 0:
        return "expected an answer that is part of the context as it is written there"
    return f"it has it at {place}, counted in characters from 0"
