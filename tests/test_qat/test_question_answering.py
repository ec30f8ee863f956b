"""Question answering: windows and offsets, labels, the best span against brute force, SQuAD's metrics by hand."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qat.batches import Collator
from qat.data import Rows
from qat.errors import DataError
from qat.tasks import find_task
from qat.tasks.base import Encoded
from qat.tasks.spans import EncodedSpans, find_best_span
from tests.test_qat.test_tasks import bert_config
from tests.tiny import tiny_tokenizer
from tests.tiny_heads import encode_head, head_model

TASK = find_task("question-answering")
CONFIG = bert_config(num_labels=2)
CONTEXT = "ba be bi bo bu"
GOOD: dict[str, object] = {"question": "ga", "context": CONTEXT, "answer": "bi bo", "answer_start": 6}

logit_rows = st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=1, max_size=12)


def encode(*records: dict[str, object], **settings: Any) -> EncodedSpans:
    rows = Rows(list(records), source="my rows")
    found = TASK.encode(rows, tokenizer=tiny_tokenizer(), config=CONFIG, **settings)
    assert isinstance(found, EncodedSpans)
    return found


def refusal(*records: dict[str, object]) -> str:
    with pytest.raises(DataError) as caught:
        encode(*records)
    return str(caught.value)


def point_at(rows: Encoded, places: list[tuple[int, int]]) -> dict[str, np.ndarray[Any, Any]]:
    """Logits whose largest start and end are at these tokens of each row, not a number behind its last token."""
    longest = max(rows.lengths)
    start, end = (np.zeros((len(rows), longest), np.float32) for _ in range(2))
    for row, (first, last) in enumerate(places):
        start[row, first] = end[row, last] = 9.0
        start[row, rows.lengths[row] :] = end[row, rows.lengths[row] :] = np.nan
    return {"start_logits": start, "end_logits": end}


def test_the_answer_is_labelled_where_its_tokens_lie() -> None:
    feature = encode(GOOD)[0]
    tokenizer = tiny_tokenizer()
    assert feature["input_ids"] == tokenizer("ga", CONTEXT)["input_ids"]
    assert feature["token_type_ids"] == [0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert (feature["start_positions"], feature["end_positions"]) == (5, 6)


def test_an_answer_within_a_word_has_the_tokens_that_hold_it() -> None:
    feature = encode(GOOD | {"context": "ba baba ba", "answer": "ba", "answer_start": 5})[0]
    assert feature["start_positions"] == feature["end_positions"]


def test_a_long_context_has_overlapping_windows_and_nothing_is_lost() -> None:
    words = [f"{first}{second}" for first in ("ba", "be", "bi") for second in ("", " bo", " bu", " ga", " ge", " gi")]
    context = " ".join(words)
    start = context.index("bi gi")
    rows = encode(GOOD | {"context": context, "answer": "bi gi", "answer_start": start}, GOOD, max_length=14)
    assert len(rows) > 3
    assert (rows.scored, rows.truncated) == (2, 0)
    assert {window.question for window in rows.windows} == {0, 1}
    assert int(rows.lengths.max()) <= 14
    long = [window for window in rows.windows if window.question == 0]
    covered = {tuple(pair) for window in long for pair in window.offsets.tolist()}
    assert {context[first:last] for first, last in covered} == set(context.split())
    for before, after in pairwise(long):
        assert after.offsets[0, 0] < before.offsets[-1, 0], "neighbours share tokens"
    labels = [(feature["start_positions"], feature["end_positions"]) for feature in rows.features[: len(long)]]
    holds = [window.offsets[0, 0] <= start and start + 5 <= window.offsets[-1, 1] for window in long]
    assert [label != (0, 0) for label in labels] == holds
    assert any(holds)
    assert not all(holds)


def test_rows_that_are_picked_keep_their_windows() -> None:
    rows = encode(GOOD, GOOD | {"question": "ge"}, GOOD | {"answer": "bu", "answer_start": 12})
    part = rows.pick([2, 0])
    assert [window.question for window in part.windows] == [2, 0]
    assert [feature["start_positions"] for feature in part] == [7, 5]
    outputs = point_at(rows, [(5, 6), (0, 0), (3, 3)])
    assert TASK.score({name: x[[2, 0]] for name, x in outputs.items()}, part)["exact_match"] == 0.5


def test_a_long_question_keeps_half_of_the_tokens() -> None:
    rows = encode(GOOD | {"question": "ga " * 30}, max_length=13)
    assert rows.truncated == 1
    assert rows[0]["input_ids"][:7] == [2, *tiny_tokenizer()("ga")["input_ids"][1:2] * 5, 3]  # type: ignore[index]


@given(logits=logit_rows, longest=st.integers(1, 6))
def test_the_best_span_is_that_of_brute_force(logits: list[tuple[int, int]], longest: int) -> None:
    start, end = (np.array(each, float) for each in zip(*logits, strict=True))
    spans = [(i, j) for i in range(len(start)) for j in range(i, min(len(start), i + longest))]
    best = max(start[i] + end[j] for i, j in spans)
    score, first, last = find_best_span(start, end, longest)
    assert score == best == start[first] + end[last]
    assert (first, last) in spans


def test_the_answer_lies_in_the_context_whatever_the_logits_say() -> None:
    rows = encode(GOOD)
    outputs = point_at(rows, [(1, 8)])  # a start in the question, an end at the last separator
    outputs["start_logits"][0, 6] = outputs["end_logits"][0, 6] = 1.0
    scores = TASK.score(outputs, rows)
    assert scores == pytest.approx({"f1": 2 / 3, "exact_match": 0.0})


def test_the_best_window_answers() -> None:
    context = "ba be bi bo bu " * 4
    rows = encode(GOOD | {"context": context}, max_length=12)
    places = [(0, 0)] * len(rows)
    outputs = point_at(rows, places)
    holder = next(row for row, feature in enumerate(rows) if feature["start_positions"])
    for name, label in (("start_logits", "start_positions"), ("end_logits", "end_positions")):
        outputs[name][holder, rows.read(label)[holder]] = 5.0
    assert TASK.score(outputs, rows) == {"f1": 1.0, "exact_match": 1.0}


def test_metrics_are_those_of_squad() -> None:
    several = GOOD | {"answer": ["bu", "bi bo"], "answer_start": [12, 6]}
    rows = encode(GOOD, GOOD, GOOD, several)
    outputs = point_at(rows, [(5, 6), (5, 5), (3, 3), (5, 6)])  # right, half of it, another word, the second answer
    assert TASK.score(outputs, rows) == pytest.approx({"f1": (1 + 2 / 3 + 0 + 1) / 4, "exact_match": 2 / 4})
    assert next(iter(TASK.score(outputs, rows))) == "f1"


def test_case_punctuation_and_articles_do_not_count() -> None:
    context = "The BA, be"
    rows = encode({"question": "ga", "context": context, "answer": "The BA,", "answer_start": 0})
    place = rows.windows[0].locate(rows.windows[0].answers[0])
    assert place is not None
    outputs = point_at(rows, [(place[0] + 1, place[0] + 1)])
    assert TASK.score(outputs, rows) == {"f1": 1.0, "exact_match": 1.0}


def test_models_agree_on_the_same_span() -> None:
    rows = encode(GOOD, GOOD)
    first, second = point_at(rows, [(4, 5), (4, 4)]), point_at(rows, [(4, 5), (4, 5)])
    assert TASK.agree(first, second, rows).tolist() == [True, False]


@pytest.mark.parametrize("family", ["albert", "convbert"])
def test_the_model_learns_from_the_labels(family: str) -> None:
    model = head_model("question-answering", family)
    rows = encode_head("question-answering", model, 4)
    assert torch.isfinite(model(**Collator(pad_token_id=0)(list(rows))).loss)


def test_rows_without_answers_calibrate() -> None:
    rows = Rows([{"question": "ga", "context": CONTEXT}], source="my rows")
    encoded = TASK.encode(rows, tokenizer=tiny_tokenizer(), config=CONFIG, require_labels=False)
    assert "start_positions" not in encoded[0]
    with pytest.raises(DataError, match="my rows was encoded without start_positions: rows without labels cannot be"):
        TASK.score(point_at(encoded, [(3, 3)]), encoded)


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (
            {"answer_start": 5},
            "the context has no 'bi bo' at answer_start 5; it has it at 6, counted in characters from 0",
        ),
        (
            {"answer": "da"},
            "the context has no 'da' at answer_start 6; expected an answer that is part of the context as it is "
            "written there",
        ),
        (
            {"answer_start": -3},
            "the context has no 'bi bo' at answer_start -3; it has it at 6, counted in characters from 0",
        ),
        ({"answer_start": None}, "column 'answer_start' is empty; expected an integer from 0"),
        ({"answer_start": 6.0}, "column 'answer_start' is 6.0 (float); expected an integer from 0"),
        ({"answer": ""}, "column 'answer' is '' (str); expected a part of the context"),
        ({"answer": None}, "column 'answer' is empty; expected a part of the context"),
        (
            {"answer": ["bi", "bo"], "answer_start": [6]},
            "2 answers and 1 answer_starts; expected as many of both, one or more",
        ),
        ({"answer": [], "answer_start": []}, "0 answers and 0 answer_starts; expected as many of both, one or more"),
        ({"context": None}, "column 'context' is empty; expected text"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(record: dict[str, object], why: str) -> None:
    assert refusal(GOOD, GOOD | record) == f"my rows, row 2: {why}"


def test_a_head_that_is_no_span_head_is_refused() -> None:
    with pytest.raises(DataError) as caught:
        TASK.encode(Rows([GOOD], "my rows"), tokenizer=tiny_tokenizer(), config=bert_config(num_labels=3))
    assert str(caught.value) == (
        "the checkpoint's head has 3 labels: question-answering expects 2, for the start and the end; "
        "set num_labels when the head is made"
    )


def test_a_missing_column_is_named() -> None:
    assert refusal({"question": "ga", "context": CONTEXT, "answer": "bi"}) == (
        "my rows has no column 'answer_start': question-answering needs question, context, answer, answer_start, "
        "the rows have question, context, answer; use --columns answer_start=..."
    )
