"""Next sentence prediction and pretraining: labels of pairs, both heads' losses and scores, what is refused."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from qat.batches import Collator
from qat.data import Rows
from qat.errors import DataError
from qat.scoring import infer_with, score_rows
from qat.tasks import find_task
from qat.tasks.base import Encoded
from tests.tiny import tiny_albert, tiny_bert, tiny_convbert, tiny_tokenizer
from tests.tiny_heads import encode_head, head_model
from tests.tolerances import LIKELIHOOD

NEXT, BOTH = find_task("next-sentence-prediction"), find_task("pretraining")
BERT = head_model("next-sentence-prediction", "bert").config
ALBERT = head_model("pretraining", "albert").config


def encode(label: object, name: str = "next-sentence-prediction", config: object = BERT) -> Encoded:
    rows = Rows([{"text": "ba be", "text_pair": "bi", "label": label}], source="my rows")
    return find_task(name).encode(rows, tokenizer=tiny_tokenizer(), config=config)  # type: ignore[arg-type]


def refusal(label: object, name: str = "next-sentence-prediction", config: object = BERT) -> str:
    with pytest.raises(DataError) as caught:
        encode(label, name, config)
    return str(caught.value)


def test_a_pair_has_segments_and_its_label() -> None:
    assert dict(encode("1")[0]) == {
        "input_ids": [2, 5, 6, 3, 7, 3],
        "token_type_ids": [0, 0, 0, 0, 1, 1],
        "attention_mask": [1] * 6,
        "labels": 1,
    }


@pytest.mark.parametrize(
    ("label", "found"), [(2, "is 2 (int)"), (True, "is True (bool)"), (None, "is empty"), ("x", "is 'x' (str)")]
)
def test_other_labels_are_refused(label: object, found: str) -> None:
    assert refusal(label) == (
        f"my rows, row 1: the label {found}; expected 0 (the second text follows the first) or 1 (it does not)"
    )
    assert refusal(label, "pretraining", ALBERT) == (
        f"my rows, row 1: the label {found}; expected 0 (the texts are in order) or 1 (they are swapped)"
    )


def test_the_score_is_the_share_judged_right() -> None:
    model = head_model("next-sentence-prediction", "bert")
    rows = encode_head("next-sentence-prediction", model, 9)
    with torch.no_grad():
        logits = model(**Collator(pad_token_id=0)(list(rows))).logits
    found = score_rows(infer_with(model), rows, NEXT, pad_token_id=0)
    assert found.value == float((logits.argmax(dim=-1).numpy() == rows.read("labels")).mean())
    turned = {"logits": found.outputs["logits"][:, ::-1]}
    assert NEXT.agree(found.outputs, found.outputs, rows).all()
    assert not NEXT.agree(found.outputs, turned, rows).any()


@pytest.mark.parametrize(("family", "target"), [("bert", "next_sentence_label"), ("albert", "sentence_order_label")])
def test_both_heads_are_trained_and_scored(family: str, target: str) -> None:
    model = head_model("pretraining", family)
    rows = encode_head("pretraining", model, 9)
    batch = Collator(pad_token_id=0)(list(rows))
    assert set(batch) == {"input_ids", "token_type_ids", "attention_mask", "labels", target}
    with torch.no_grad():
        output = model(**batch)
    names = BOTH.name_outputs(model.config)
    tokens = functional.cross_entropy(output[names[0]].flatten(0, 1), batch["labels"].flatten())
    pairs = functional.cross_entropy(output[names[1]], batch[target])
    torch.testing.assert_close(output.loss, tokens + pairs)
    found = score_rows(infer_with(model), rows, BOTH, pad_token_id=0, batch_size=4)
    assert list(found.metrics) == ["token_probability", "perplexity", "accuracy", "pair_accuracy"]
    assert found.metrics["perplexity"] == pytest.approx(math.exp(float(tokens)), rel=LIKELIHOOD.value)
    assert found.metrics["pair_accuracy"] == float((output[names[1]].argmax(dim=-1) == batch[target]).double().mean())
    assert found.n == rows.scored
    assert len(BOTH.agree(found.outputs, found.outputs, rows)) == rows.scored + len(rows)
    turned = {**found.outputs, "pair_logits": found.outputs["pair_logits"][:, ::-1]}
    assert (~BOTH.agree(found.outputs, turned, rows)).sum() == len(rows)


def test_rows_without_labels_calibrate_and_are_not_scored() -> None:
    rows = Rows([{"text": "ba be", "text_pair": "bi"}], source="my rows")
    encoded = BOTH.encode(rows, tokenizer=tiny_tokenizer(), config=ALBERT, require_labels=False)
    assert set(encoded[0]) == {"input_ids", "token_type_ids", "attention_mask", "labels"}
    outputs = {"said": np.zeros((1, 6)), "log_likelihood": np.zeros((1, 6)), "pair_logits": np.zeros((1, 2))}
    with pytest.raises(DataError) as caught:
        BOTH.score(outputs, encoded)
    assert str(caught.value).startswith("my rows was encoded without ")


def test_an_order_head_of_other_labels_is_refused() -> None:
    assert refusal(0, "pretraining", tiny_albert(num_labels=3).config) == (
        "the checkpoint's head has 3 labels: pretraining expects 2, for the right order and the other one; set "
        "num_labels when the head is made"
    )
    assert encode(0, "pretraining", tiny_bert(num_labels=3).config)[0]["next_sentence_label"] == 0


def test_a_family_pretrained_otherwise_is_refused() -> None:
    assert refusal(0, "pretraining", tiny_convbert().config) == (
        "convbert is not pretrained on masked words and pairs: use --task fill-mask"
    )
