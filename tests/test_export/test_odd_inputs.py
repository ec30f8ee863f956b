"""Rows that are empty, all padding, one token or the longest, in any script: torch and ONNX Runtime agree on them."""

import numpy as np
import pytest

from export.exported import Lowering, lower_graph
from export.targets import find_target
from qat.batches import iterate_batches
from qat.data import Rows
from qat.tasks import find_task
from tests.test_export.tiny_models import Traced, make_batch, row_errors, run_graph, run_torch
from tests.tiny import MAX_LENGTH, tiny_tokenizer
from tests.tolerances import GRAPH_FP32

TEXTS = ("", " ", "ba", "😀👩‍👩‍👧", "שלום", "شكرا", "\u202eba", "\x00", "e\u0301" * 30, "ba " * 500)


@pytest.mark.parametrize("shape", [(1, 1), (1, MAX_LENGTH), (3, 1), (8, MAX_LENGTH)])
def test_the_smallest_and_the_longest_batches(traced: Traced, shape: tuple[int, int]) -> None:
    graph = lower_graph(traced.graph, Lowering(find_target("onnxruntime"), "fp32"))
    batch = make_batch(*shape)
    assert row_errors(run_graph(graph, batch), run_torch(traced.model, batch)).max() <= GRAPH_FP32.value


def test_a_row_of_padding_alone_is_finite_and_changes_no_other(bert: Traced) -> None:
    graph = lower_graph(bert.graph, Lowering(find_target("onnxruntime"), "fp32"))
    batch = make_batch(4, 12)
    whole = run_graph(graph, batch)
    batch["attention_mask"][2], batch["input_ids"][2] = 0, 0
    found = run_graph(graph, batch)
    assert np.isfinite(found).all()
    assert row_errors(np.delete(found, 2, axis=0), np.delete(whole, 2, axis=0)).max() <= GRAPH_FP32.value
    assert np.isfinite(run_torch(bert.model, batch)).all()


def test_texts_of_every_kind_are_encoded_and_answered(bert: Traced) -> None:
    rows = Rows([{"text": text, "label": 0} for text in TEXTS], source="odd texts")
    encoded = find_task("text-classification").encode(rows, tokenizer=tiny_tokenizer(), config=bert.model.config)
    graph = lower_graph(bert.graph, Lowering(find_target("onnxruntime"), "fp32"))
    for batch in iterate_batches(encoded, batch_size=3, pad_token_id=0):
        tensors = batch.to_tensors()
        feed = {name: tensors[name].numpy() for name in ("input_ids", "attention_mask")}
        assert row_errors(run_graph(graph, feed), run_torch(bert.model, feed)).max() <= GRAPH_FP32.value
