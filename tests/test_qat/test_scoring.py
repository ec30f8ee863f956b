"""Scoring: answers in the order of the rows, nothing where there is no token, and a stop where they are no numbers."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qat.errors import RangeError
from qat.scoring import infer_with, score_rows
from qat.tasks import find_task
from tests.calibrated import TASK, encode_tiny
from tests.tiny import tiny_bert
from tests.tiny_heads import HEADS, encode_head, head_model


@pytest.mark.parametrize("head", ["question-answering", "token-classification"])
def test_padding_is_no_answer_and_rows_keep_their_order(head: str) -> None:
    model = head_model(head, "bert")
    rows, task = encode_head(head, model, 9), find_task(HEADS[head].task)
    one, many = (score_rows(infer_with(model), rows, task, pad_token_id=0, batch_size=size) for size in (1, len(rows)))
    assert tuple(one.outputs) == task.outputs
    for name, values in one.outputs.items():
        real = np.isfinite(values).reshape(len(rows), values.shape[1], -1)
        assert (real == (np.arange(values.shape[1]) < rows.lengths[:, None])[..., None]).all()
        assert np.array_equal(np.isnan(many.outputs[name]), np.isnan(values))
    assert dict(many.metrics) == dict(one.metrics)
    assert (one.metric, one.value) == next(iter(one.metrics.items()))
    assert one.n == len(rows)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_answers_that_are_not_finite_are_not_scored(value: float) -> None:
    def infer(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        logits = np.zeros((len(inputs["input_ids"]), 3))
        logits[0, 1] = value
        return {"logits": logits}

    with pytest.raises(RangeError) as caught:
        score_rows(infer, encode_tiny(5), TASK, pad_token_id=0, batch_size=4)
    assert str(caught.value) == "2 of 5 rows have answers that are not finite: nothing can be scored"


def test_what_is_answered_to_padding_may_be_anything() -> None:
    model = head_model("token-classification", "bert")
    rows, task = encode_head("token-classification", model, 6), find_task("token-classification")
    infer = infer_with(model)

    def spoil(inputs: dict[str, NDArray[np.int64]]) -> dict[str, NDArray[Any]]:
        padded = inputs["attention_mask"][..., None] == 0
        return {"logits": np.where(padded, np.inf, infer(inputs)["logits"])}

    assert (
        score_rows(spoil, rows, task, pad_token_id=0).metrics == score_rows(infer, rows, task, pad_token_id=0).metrics
    )


def test_a_model_answers_with_all_its_outputs() -> None:
    answers = infer_with(tiny_bert())(dict(encode_arrays()))
    assert set(answers) == {"logits"}


def encode_arrays() -> dict[str, NDArray[np.int64]]:
    ids = np.array([[2, 5, 3]])
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}
