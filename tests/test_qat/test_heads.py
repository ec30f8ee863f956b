"""The heads of text classification: which one a checkpoint has, its labels, its metrics against independent ones."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from qat.batches import Collator
from qat.data import Rows
from qat.errors import DataError
from qat.tasks import find_task
from qat.tasks.base import Encoded
from qat.tasks.heads import MultiLabel, Regression, find_head
from tests.test_qat.test_tasks import bert_config
from tests.tiny import tiny_tokenizer
from tests.tiny_heads import encode_head, head_model
from tests.tolerances import CORRELATION

TASK = find_task("text-classification")
NUMBER = bert_config(num_labels=1)
SEVERAL = bert_config(num_labels=3, problem_type="multi_label_classification")

flags = st.lists(st.booleans(), min_size=3, max_size=3)
numbers = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=20)


def encode(label: object, config: Any) -> Encoded:
    rows = Rows([{"text": "ba", "label": label}], source="my rows")
    return TASK.encode(rows, tokenizer=tiny_tokenizer(), config=config)


def refusal(label: object, config: Any) -> str:
    with pytest.raises(DataError) as caught:
        encode(label, config)
    return str(caught.value)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"num_labels": 1}, "regression"),
        ({"num_labels": 1, "problem_type": "regression"}, "regression"),
        ({"num_labels": 3}, "single_label_classification"),
        ({"num_labels": 2, "problem_type": "multi_label_classification"}, "multi_label_classification"),
    ],
)
def test_the_configuration_says_the_head(settings: dict[str, Any], problem: str) -> None:
    assert find_head(bert_config(**settings)).problem_type == problem


@pytest.mark.parametrize("label", [2.5, "2.5", " 2.5 ", np.float64(2.5)])
def test_a_regression_takes_numbers(label: object) -> None:
    assert encode(label, NUMBER)[0]["labels"] == 2.5
    assert encode(label, NUMBER).problem_type == "regression"


@pytest.mark.parametrize(
    ("label", "found"),
    [
        ("plant", "is 'plant' (str)"),
        (None, "is empty"),
        (True, "is True (bool)"),
        (float("nan"), "is nan (float)"),
        (float("inf"), "is inf (float)"),
        ([1.0], "is [1.0] (list)"),
    ],
)
def test_a_regression_refuses_what_is_no_number(label: object, found: str) -> None:
    expected = f"my rows, row 1: the label {found}; expected a finite number (a regression head)"
    assert refusal(label, NUMBER) == expected


def test_several_labels_become_ones_and_zeros() -> None:
    assert encode(["LABEL_2", 0], SEVERAL)[0]["labels"] == [1.0, 0.0, 1.0]
    assert encode([], SEVERAL)[0]["labels"] == [0.0, 0.0, 0.0]


def test_several_labels_refuse_what_is_none_of_them() -> None:
    assert refusal(1, SEVERAL) == "my rows, row 1: the label is 1 (int); expected a list of labels, it may be empty"
    assert refusal([0, 3], SEVERAL) == "my rows, row 1: label 3 is not one of the checkpoint's 3: expected 0 to 2"


@pytest.mark.parametrize("head", ["regression", "multi-label"])
def test_the_loss_takes_the_labels_as_they_come(head: str) -> None:
    model = head_model(head, "squeezebert")
    batch = Collator(pad_token_id=0)(list(encode_head(head, model, 5)))
    assert batch["labels"].dtype == torch.float32
    found = model(**batch)
    right = batch["labels"]
    logits = found.logits[:, 0] if head == "regression" else found.logits
    wanted = (
        (logits - right).square().mean()
        if head == "regression"
        else -(right * logits.sigmoid().log() + (1 - right) * (-logits).sigmoid().log()).mean()
    )
    torch.testing.assert_close(found.loss, wanted)


def ranks(values: list[int]) -> list[float]:
    """The mean place of each value among all, ties sharing theirs."""
    return [sum(other < value for other in values) + (values.count(value) + 1) / 2 for value in values]


@given(numbers)
def test_correlations_are_those_of_the_definition(pairs: list[tuple[int, int]]) -> None:
    said, right = (list(each) for each in zip(*pairs, strict=True))
    found = Regression().score(np.array(said, np.float32)[:, None], np.array(right, np.float32))
    constant = len(set(said)) == 1 or len(set(right)) == 1
    spearman = 0.0 if constant else float(np.corrcoef(ranks(said), ranks(right))[0, 1])
    pearson = 0.0 if constant else float(np.corrcoef(said, right)[0, 1])
    assert list(found) == ["spearman", "pearson"]
    assert found == pytest.approx({"spearman": spearman, "pearson": pearson}, abs=CORRELATION.value)


@given(st.lists(st.tuples(flags, flags), min_size=1, max_size=9))
def test_f1_counts_the_labels_of_all_rows_together(rows: list[tuple[list[bool], list[bool]]]) -> None:
    said, right = (np.array(each) for each in zip(*rows, strict=True))
    hits, all_said, there = int((said & right).sum()), int(said.sum()), int(right.sum())
    found = MultiLabel().score(np.where(said, 1.0, -1.0), right.astype(np.float32))["f1_micro"]
    assert found == pytest.approx(2 * hits / (all_said + there) if hits else 0.0)
    assert found == f1_score(right, said, average="micro", zero_division=0)


def test_regressions_agree_within_a_hundredth_of_the_spread() -> None:
    first, second = np.array([[0.0], [10.0], [5.0]]), np.array([[0.09], [10.2], [5.0]])
    assert Regression().agree(first, second).tolist() == [True, False, True]


def test_several_labels_agree_only_as_a_whole() -> None:
    first, second = np.array([[1.0, -1.0], [1.0, -1.0]]), np.array([[0.5, -3.0], [1.0, 1.0]])
    assert MultiLabel().agree(first, second).tolist() == [True, False]
