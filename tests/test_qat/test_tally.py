"""Rows scored in parts have the score of the whole: of every head, wherever the parts begin and end."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qat.scoring import Batching, answer_rows, infer_with, refer_rows, score_parts, score_rows
from qat.tasks import find_task
from qat.tasks.tally import add_tallies
from tests.tiny_heads import HEADS, encode_head, head_model
from tests.tolerances import PARTS

BATCHING = Batching(pad_token_id=0, batch_size=8)


@pytest.mark.parametrize("head", HEADS)
def test_parts_score_as_the_whole(head: str) -> None:
    model, task = head_model(head, "bert", layers=1), find_task(HEADS[head].task)
    infer = infer_with(model)
    other = infer_with(head_model(head, "bert", seed=1, layers=1))
    rows = refer_rows(other, encode_head(head, model, 24), task, pad_token_id=0)
    whole = score_rows(infer, rows, task, pad_token_id=0, batch_size=8)
    cuts = [0, 2, 10, len(rows)]
    parts = [rows.pick(range(start, end)) for start, end in pairwise(cuts)]
    done: list[tuple[int, int]] = []
    found = score_parts(lambda part: infer, parts, task, batching=BATCHING, progress=lambda *given: done.append(given))
    assert (found.n, dict(found.outputs)) == (whole.n, {})
    assert dict(found.metrics) == pytest.approx(dict(whole.metrics), rel=PARTS.value, abs=PARTS.value)
    assert done[0] == (2, 2)
    assert done[-1] == (len(rows), len(rows))


@given(st.lists(st.lists(st.integers(-5, 5), min_size=1), min_size=2, max_size=4))
def test_sums_add_up_and_columns_are_joined_in_any_grouping(parts: list[list[int]]) -> None:
    tallies = [{"sum": np.array(float(sum(part))), "every": np.array(part)} for part in parts]
    left, right = tallies[0], tallies[-1]
    for each in tallies[1:]:
        left = dict(add_tallies(left, each))
    for each in reversed(tallies[:-1]):
        right = dict(add_tallies(each, right))
    assert left["sum"] == right["sum"] == sum(map(sum, parts))
    assert left["every"].tolist() == right["every"].tolist() == [each for part in parts for each in part]


def test_answers_are_kept_in_the_order_of_the_rows_whatever_the_streams() -> None:
    model, task = head_model("single-label", "bert", layers=1), find_task("text-classification")
    rows = encode_head("single-label", model, 20)
    alone, many = (Batching(pad_token_id=0, batch_size=3, streams=streams) for streams in (1, 4))
    found = [answer_rows(infer_with(model), rows, task.keep, batching=each) for each in (alone, many)]
    assert np.array_equal(found[0]["logits"], found[1]["logits"])
