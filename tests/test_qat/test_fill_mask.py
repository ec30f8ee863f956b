"""Masked words: encoding, the loss the labels give, scoring without all logits at once, what is refused."""

import math

import numpy as np
import pytest
import torch

from qat.batches import Collator, iterate_batches
from qat.cells import list_cells
from qat.checkpoint import load_checkpoint
from qat.data import Rows
from qat.errors import CheckpointError, DataError, RangeError
from qat.scoring import infer_with, score_rows
from qat.tasks import find_task
from tests.tiny import TINY_MODELS, save_tiny, tiny_bert, tiny_tokenizer
from tests.tiny_heads import encode_head, head_model
from tests.tolerances import LIKELIHOOD

TASK = find_task("fill-mask")
CONFIG = tiny_bert().config


def test_a_text_is_its_own_label() -> None:
    rows = Rows([{"text": "ba be bi bo bu da"}, {"text": "ba be bi bo bu da", "unread": 1}], source="my rows")
    encoded = TASK.encode(rows, tokenizer=tiny_tokenizer(), config=CONFIG)
    assert dict(encoded[0]) == dict(encoded[1])
    (place,) = np.flatnonzero(np.array(encoded[0]["labels"]) != -100)
    ids = np.array(encoded[0]["input_ids"])
    ids[place] = np.array(encoded[0]["labels"])[place]
    assert ids.tolist() == [2, 5, 6, 7, 8, 9, 10, 3]
    assert encoded.scored == 2


def test_pairs_have_segments_and_long_texts_lose_their_end() -> None:
    rows = Rows([{"text": "ba be bi bo bu da", "text_pair": "ba"}], source="my rows")
    encoded = TASK.encode(rows, tokenizer=tiny_tokenizer(), config=CONFIG, max_length=7)
    assert encoded[0]["token_type_ids"] == [0, 0, 0, 0, 0, 1, 1]
    assert encoded.truncated == 1


def test_batches_are_padded_with_labels_that_count_nowhere() -> None:
    rows = Rows([{"text": "ba be bi bo bu da"}, {"text": "ba"}], source="my rows")
    encoded = TASK.encode(rows, tokenizer=tiny_tokenizer(), config=CONFIG)
    batch = next(iterate_batches(encoded, batch_size=2, pad_token_id=0))
    assert batch.targets["labels"].shape == batch.inputs["input_ids"].shape == (2, 8)
    assert batch.targets["labels"][1].tolist() == [-100, 5, *[-100] * 6]


@pytest.mark.parametrize("family", TINY_MODELS)
def test_the_perplexity_is_that_of_the_loss(family: str) -> None:
    model = head_model("fill-mask", family)
    rows = encode_head("fill-mask", model, 9)
    batch = Collator(pad_token_id=0)(list(rows))
    with torch.no_grad():
        expected = math.exp(float(model(**batch).loss))
    found = score_rows(infer_with(model), rows, TASK, pad_token_id=0, batch_size=len(rows))
    assert found.metrics["perplexity"] == pytest.approx(expected, rel=LIKELIHOOD.value)
    assert found.n == rows.scored == int((batch["labels"] != -100).sum())


def test_only_answers_to_hidden_tokens_are_kept_and_must_be_finite() -> None:
    model = head_model("fill-mask", "bert")
    rows = encode_head("fill-mask", model, 12)
    infer, hidden = infer_with(model), {row: np.array(rows[row]["labels"]) != -100 for row in range(len(rows))}
    found = score_rows(infer, rows, TASK, pad_token_id=0, batch_size=5)
    assert {name: values.shape for name, values in found.outputs.items()} == dict.fromkeys(
        ("said", "log_likelihood"), (12, int(rows.lengths.max()))
    )
    for row, places in hidden.items():
        assert (np.isfinite(found.outputs["said"][row][: len(places)]) == places).all()

    def spoil(inputs: dict[str, np.ndarray], *, shown: bool) -> dict[str, np.ndarray]:
        logits = infer(inputs)["logits"].copy()
        wanted = next(batch for batch in iterate_batches(rows, batch_size=12, pad_token_id=0, order="length"))
        spoiled = (wanted.targets["labels"] == -100) if shown else (wanted.targets["labels"] != -100)
        logits[spoiled] = np.nan
        return {"logits": logits}

    whole = score_rows(lambda inputs: spoil(inputs, shown=True), rows, TASK, pad_token_id=0, batch_size=12)
    assert whole.metrics == pytest.approx(found.metrics, rel=LIKELIHOOD.value)
    with pytest.raises(RangeError, match=r"^12 of 12 rows have answers that are not finite: nothing can be scored$"):
        score_rows(lambda inputs: spoil(inputs, shown=False), rows, TASK, pad_token_id=0, batch_size=12)


def test_a_text_without_a_word_is_named() -> None:
    with pytest.raises(DataError) as caught:
        TASK.encode(Rows([{"text": ""}], source="my rows"), tokenizer=tiny_tokenizer(), config=CONFIG)
    assert str(caught.value) == "my rows, row 1: the text has no token to hide; expected at least one known word"


def test_a_family_without_the_head_is_refused_by_name(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = save_tiny(head_model("fill-mask", "convbert"), tiny_tokenizer(), tmp_path_factory.mktemp("float"))
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder, find_task("pretraining"))
    there = dict.fromkeys(cell.task.name for cell in list_cells() if cell.family.model_type == "convbert")
    assert str(caught.value) == (
        f"{folder} is a convbert and has no head for pretraining: expected one of {', '.join(there)}"
    )
    assert "fill-mask" in there
