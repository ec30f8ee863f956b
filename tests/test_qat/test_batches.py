"""Batches hold every row once, padded to their longest, and give the order back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

from qat.batches import Batch, Collator, Order, iterate_batches, pad_features, restore_order
from qat.data import Rows
from qat.errors import DataError
from qat.tasks import find_task
from qat.tasks.base import Encoded, Feature
from tests.tiny import tiny_bert, tiny_rows, tiny_tokenizer

PAD = 9
ORDERS: tuple[Order, ...] = ("given", "length", "shuffled")


def encode_ids(ids: list[list[int]]) -> Encoded:
    features: list[Feature] = [
        {"input_ids": row, "attention_mask": [1] * len(row), "labels": number} for number, row in enumerate(ids)
    ]
    return Encoded(features, max_length=64, truncated=0, source="ids")


token_lists = st.lists(st.lists(st.integers(10, 99), min_size=1, max_size=12), min_size=1, max_size=20)


@given(ids=token_lists, batch_size=st.integers(1, 8), order=st.sampled_from(ORDERS), seed=st.integers(0, 5))
def test_every_row_comes_once_and_padding_only_follows_it(
    ids: list[list[int]], batch_size: int, order: Order, seed: int
) -> None:
    batches = list(iterate_batches(encode_ids(ids), batch_size=batch_size, pad_token_id=PAD, order=order, seed=seed))
    seen = np.concatenate([batch.index for batch in batches])
    assert sorted(seen.tolist()) == list(range(len(ids)))
    assert [len(batch.index) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    for batch in batches:
        tokens, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
        assert tokens.dtype == mask.dtype == batch.targets["labels"].dtype == np.int64
        assert tokens.shape == mask.shape == (len(batch.index), max(len(ids[row]) for row in batch.index))
        assert batch.targets["labels"].tolist() == batch.index.tolist()
        for row, line, kept in zip(batch.index, tokens, mask, strict=True):
            length = len(ids[row])
            assert line[:length].tolist() == ids[row]
            assert (line[length:] == PAD).all()
            assert kept.tolist() == [1] * length + [0] * (len(line) - length)


@given(ids=token_lists, batch_size=st.integers(1, 8), order=st.sampled_from(ORDERS))
def test_outputs_return_to_the_order_of_the_rows(ids: list[list[int]], batch_size: int, order: Order) -> None:
    batches = iterate_batches(encode_ids(ids), batch_size=batch_size, pad_token_id=PAD, order=order)
    sums = restore_order(
        (batch, (batch.inputs["input_ids"] * batch.inputs["attention_mask"]).sum(1)) for batch in batches
    )
    assert sums.tolist() == [sum(row) for row in ids]


@given(ids=token_lists, batch_size=st.integers(1, 8))
def test_order_by_length_pads_no_more_than_any_other(ids: list[list[int]], batch_size: int) -> None:
    def count_cells(order: Order) -> int:
        batches = iterate_batches(encode_ids(ids), batch_size=batch_size, pad_token_id=PAD, order=order)
        return sum(batch.inputs["input_ids"].size for batch in batches)

    assert count_cells("length") <= min(count_cells("given"), count_cells("shuffled"))


def test_order_by_length_puts_the_longest_first_and_keeps_ties() -> None:
    encoded = encode_ids([[1], [1, 1, 1], [1, 1], [2], [2, 2, 2]])
    batches = iterate_batches(encoded, batch_size=2, pad_token_id=PAD, order="length")
    assert [batch.index.tolist() for batch in batches] == [[1, 4], [2, 0], [3]]


def test_shuffle_follows_the_seed() -> None:
    encoded = encode_ids([[number] for number in range(50)])

    def draw(seed: int) -> list[int]:
        batches = iterate_batches(encoded, batch_size=50, pad_token_id=PAD, order="shuffled", seed=seed)
        return [int(row) for row in next(batches).index]

    assert draw(0) == draw(0)
    assert draw(0) != draw(1)
    assert draw(0) != list(range(50))


@pytest.mark.parametrize("size", [0, -1])
def test_batch_size_below_one(size: int) -> None:
    with pytest.raises(DataError) as caught:
        next(iterate_batches(encode_ids([[1]]), batch_size=size, pad_token_id=PAD))
    assert str(caught.value) == f"batch size {size} holds no rows: expected 1 or more"


def test_restoring_nothing() -> None:
    with pytest.raises(DataError) as caught:
        restore_order([])
    assert str(caught.value) == "no batches: expected at least one"


def test_token_labels_are_padded_with_what_the_loss_ignores() -> None:
    padded = pad_features(
        [{"input_ids": [5, 6], "labels": [1, 2]}, {"input_ids": [7], "labels": [3]}], pad_token_id=PAD
    )
    assert padded["labels"].tolist() == [[1, 2], [3, -100]]


def test_rows_without_labels_have_no_targets() -> None:
    encoded = Encoded([{"input_ids": [1], "attention_mask": [1]}], max_length=8, truncated=0, source="one row")
    batch = next(iterate_batches(encoded, batch_size=4, pad_token_id=PAD))
    assert batch.targets == {}
    assert set(batch.to_tensors()) == {"input_ids", "attention_mask"}


def test_tensors_hold_inputs_and_targets() -> None:
    batch = Batch(np.array([0]), {"input_ids": np.array([[3, 4]])}, {"labels": np.array([1])})
    tensors = batch.to_tensors()
    assert torch.equal(tensors["input_ids"], torch.tensor([[3, 4]]))
    assert torch.equal(tensors["labels"], torch.tensor([1]))


@pytest.mark.parametrize("pair", [False, True], ids=["single", "pair"])
def test_collator_agrees_with_the_one_of_transformers(pair: bool) -> None:
    tokenizer = tiny_tokenizer()
    records = [row | {"text_pair": "ba be"} if pair else row for row in tiny_rows(16)]
    rows = Rows(records, source="tiny rows")
    encoded = find_task("text-classification").encode(rows, tokenizer=tokenizer, config=tiny_bert().config)
    ours = Collator(pad_token_id=0)(list(encoded))
    theirs = DataCollatorWithPadding(tokenizer)([dict(feature) for feature in encoded])
    assert set(ours) == set(theirs)
    assert ("token_type_ids" in ours) == pair
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor)


def test_padding_does_not_change_a_model_s_answer() -> None:
    model = tiny_bert()
    rows = Rows(tiny_rows(12), source="tiny rows")
    encoded = find_task("text-classification").encode(rows, tokenizer=tiny_tokenizer(), config=model.config)

    def infer(batch_size: int, order: Order) -> torch.Tensor:
        with torch.inference_mode():
            parts = [
                (batch, model(**batch.to_tensors()).logits.numpy())
                for batch in iterate_batches(encoded, batch_size=batch_size, pad_token_id=0, order=order)
            ]
        return torch.from_numpy(restore_order(parts))

    torch.testing.assert_close(infer(12, "given"), infer(1, "given"), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(infer(5, "length"), infer(1, "given"), rtol=1e-4, atol=1e-5)


def test_trainer_takes_encoded_rows_and_collator(tmp_path: Path) -> None:
    model = tiny_bert()
    rows = Rows(tiny_rows(16), source="tiny rows")
    encoded = find_task("text-classification").encode(rows, tokenizer=tiny_tokenizer(), config=model.config)
    settings = TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=8, report_to="none", use_cpu=True,
        save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(model=model, args=settings, train_dataset=encoded, data_collator=Collator(pad_token_id=0))
    outcome = trainer.train()
    assert outcome.global_step == 2
    assert np.isfinite(outcome.training_loss)
