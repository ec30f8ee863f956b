"""Multiple choice: rows of several sequences, padded to one block, and what is refused."""

import numpy as np
import pytest
import torch

from qat.batches import Collator, iterate_batches
from qat.data import Rows
from qat.errors import DataError
from qat.tasks import find_task
from qat.tasks.base import Encoded
from tests.tiny import tiny_bert, tiny_tokenizer
from tests.tiny_heads import encode_head, head_model

TASK = find_task("multiple-choice")
CONFIG = tiny_bert().config
GOOD: dict[str, object] = {"question": "ba", "choices": ["be", "bi bo"], "label": 1}


def encode(*records: dict[str, object], **settings: int) -> Encoded:
    rows = Rows(list(records), source="my rows")
    return TASK.encode(rows, tokenizer=tiny_tokenizer(), config=CONFIG, max_length=settings.get("max_length"))


def refusal(*records: dict[str, object]) -> str:
    with pytest.raises(DataError) as caught:
        encode(*records)
    return str(caught.value)


def test_each_choice_is_a_pair_with_the_question() -> None:
    encoded = encode(GOOD)
    assert dict(encoded[0]) == {
        "input_ids": [[2, 5, 3, 6, 3], [2, 5, 3, 7, 8, 3]],
        "token_type_ids": [[0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1]],
        "attention_mask": [[1] * 5, [1] * 6],
        "labels": 1,
    }
    assert encoded.axes == ("batch", 2, "sequence")
    assert encoded.lengths.tolist() == [6]
    assert encoded.sequences == [[2, 5, 3, 6, 3], [2, 5, 3, 7, 8, 3]]


def test_a_batch_is_one_block() -> None:
    batch = next(iterate_batches(encode(GOOD, GOOD | {"choices": ["be be be be", "bi"]}), batch_size=2, pad_token_id=9))
    assert batch.inputs["input_ids"].shape == batch.inputs["attention_mask"].shape == (2, 2, 8)
    assert batch.inputs["input_ids"][0].tolist() == [[2, 5, 3, 6, 3, 9, 9, 9], [2, 5, 3, 7, 8, 3, 9, 9]]
    assert batch.inputs["attention_mask"].sum(axis=-1).tolist() == [[5, 6], [8, 5]]
    assert batch.targets["labels"].tolist() == [1, 1]


def test_rows_that_lost_a_choice_s_end_are_counted_once() -> None:
    encoded = encode(GOOD | {"choices": ["be be be be", "bi bi bi bi"]}, GOOD, max_length=6)
    assert (encoded.truncated, encoded.lengths.tolist()) == (1, [6, 6])


@pytest.mark.parametrize("family", ["bert", "convbert"])
def test_the_model_takes_the_block_and_its_labels(family: str) -> None:
    model = head_model("multiple-choice", family)
    rows = encode_head("multiple-choice", model, 4)
    found = model(**Collator(pad_token_id=0)(list(rows)))
    assert found.logits.shape == (4, 3)
    assert torch.isfinite(found.loss)


def test_accuracy_counts_the_largest_logits() -> None:
    rows, logits = encode(GOOD, GOOD | {"label": 0}, GOOD), np.array([[0.0, 1.0], [0.0, 1.0], [2.0, 1.0]])
    assert TASK.score({"logits": logits}, rows) == {"accuracy": 1 / 3}
    assert TASK.agree({"logits": logits}, {"logits": logits[:, ::-1]}, rows).tolist() == [False] * 3


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({"choices": "be"}, "column 'choices' is 'be' (str); expected a list of texts"),
        ({"choices": None}, "column 'choices' is empty; expected a list of texts"),
        ({"choices": ["be", 3]}, "column 'choices' is ['be', 3] (list); expected a list of texts"),
        ({"choices": ["be"]}, "1 choices; expected two or more"),
        ({"choices": ["be"] * 3}, "3 choices, the first row has 2: give all rows as many"),
        ({"label": 2}, "label 2 is none of the 2 choices: expected 0 to 1"),
        ({"label": -1}, "label -1 is none of the 2 choices: expected 0 to 1"),
        ({"label": "be"}, "the label is 'be' (str); expected an integer, 0 to 1"),
        ({"label": None}, "the label is empty; expected an integer, 0 to 1"),
        ({"question": None}, "column 'question' is empty; expected text"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(record: dict[str, object], why: str) -> None:
    assert refusal(GOOD, GOOD | record) == f"my rows, row 2: {why}"


def test_a_missing_column_is_named() -> None:
    assert refusal({"question": "ba", "label": 0}) == (
        "my rows has no column 'choices': multiple-choice needs question, choices, label, "
        "the rows have question, label; use --columns choices=..."
    )
