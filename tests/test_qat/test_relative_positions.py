"""Relative positions: the scores by their formula, loaded, saved, quantized, trained and refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

import qdq
from qat.checkpoint import load_checkpoint
from qat.errors import CheckpointError
from qat.huggingface import unwrap, wrap
from qat.quantizer import disable_quantizers
from qat.relative_positions import RELATIVE, distance_scores
from qat.structure import build_structure, remember_structure
from tests.calibrated import TASK, make_calibrated, save_calibrated
from tests.test_qat.wrapped import make_batch
from tests.tiny import TINY_MODELS, save_tiny, spread_weights, tiny_tokenizer
from tests.tolerances import FORMULA

ATTENTION = {
    "bert": "bert.encoder.layer.0.attention.self",
    "albert": "albert.encoder.albert_layer_groups.0.albert_layers.0.attention",
}
both = pytest.mark.parametrize("family", ATTENTION)
kinds = pytest.mark.parametrize("kind", RELATIVE)
Array = NDArray[np.float64]


def make_relative(family: str, kind: str) -> PreTrainedModel:
    """The family's tiny model with relative positions, in evaluation mode."""
    config = TINY_MODELS[family]().config
    config.position_embedding_type = kind
    model: PreTrainedModel = type(TINY_MODELS[family]())(config)
    build_structure(model)
    remember_structure(model)
    spread_weights(model, seed=4)
    nn.Module.eval(model)
    return model


def logits_of(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(**make_batch()).logits
    return logits


def expected_probabilities(q: Array, k: Array, table: Array, mask: Array, family: str, kind: str) -> Array:
    """The attention of transformers 4 by the formulas of its papers, token by token, in FP64."""
    batch, heads, tokens, size = q.shape
    positions = (len(table) + 1) // 2
    scores = np.einsum("bhid,bhjd->bhij", q, k)
    distances = np.zeros((batch, heads, tokens, tokens))
    for i in range(tokens):
        for j in range(tokens):
            embedding = table[i - j + positions - 1]
            distances[:, :, i, j] = q[:, :, i] @ embedding
            if kind == "relative_key_query":
                distances[:, :, i, j] += k[:, :, j] @ embedding
    root = np.sqrt(size)
    scores = (scores + distances) / root if family == "bert" else scores / root + distances
    scores = np.where(mask[:, None, None, :] == 0, -np.inf, scores)
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    share: Array = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return share


@both
@kinds
def test_probabilities_follow_the_formula(family: str, kind: str) -> None:
    model = make_relative(family, kind)
    attention = model.get_submodule(ATTENTION[family])
    caught: dict[str, Tensor] = {}
    for part in ("query", "key"):
        attention.get_submodule(part).register_forward_hook(lambda m, x, y, part=part: caught.setdefault(part, y))
    batch = make_batch()
    with torch.no_grad():
        found = model(**batch, output_attentions=True).attentions[0]
    heads = model.config.num_attention_heads

    def split(x: Tensor) -> Array:
        array: Array = x.double().unflatten(-1, (heads, -1)).transpose(1, 2).numpy()
        return array

    table = attention.get_parameter("distance_embedding.weight").detach().double().numpy()
    mask = batch["attention_mask"].numpy()
    expected = expected_probabilities(split(caught["query"]), split(caught["key"]), table, mask, family, kind)
    assert np.abs(found.numpy() - expected).max() < FORMULA.value


@given(st.integers(1, 9), st.integers(0, 6), st.integers(1, 5), st.integers(0, 99))
def test_shifted_rows_are_the_products_one_by_one(tokens: int, spare: int, size: int, seed: int) -> None:
    chance = np.random.default_rng(seed)
    positions = tokens + spare
    x, table = chance.normal(size=(2, 3, tokens, size)), chance.normal(size=(2 * positions - 1, size))
    found = distance_scores(torch.from_numpy(x), torch.from_numpy(table)).numpy()
    for i in range(tokens):
        for j in range(tokens):
            np.testing.assert_allclose(found[:, :, i, j], x[:, :, i] @ table[i - j + positions - 1], atol=1e-12)


@both
def test_absolute_positions_are_not_added(family: str) -> None:
    model = make_relative(family, "relative_key")
    embeddings = model.base_model.get_submodule("embeddings")
    ids = make_batch()["input_ids"]
    with torch.no_grad():
        word = embeddings.get_submodule("word_embeddings")(ids)
        kind = embeddings.get_submodule("token_type_embeddings")(torch.zeros_like(ids))
        expected = embeddings.get_submodule("LayerNorm")(word + kind)
        assert torch.equal(embeddings(ids), expected)


@both
@kinds
def test_a_float_folder_comes_back_bit_by_bit(family: str, kind: str, tmp_path: Path) -> None:
    model = make_relative(family, kind)
    folder = save_tiny(model, tiny_tokenizer(), tmp_path / "relative")
    assert torch.equal(logits_of(load_checkpoint(folder, TASK).model), logits_of(model))
    plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert torch.equal(logits_of(plain), logits_of(model)), "after import qdq transformers builds it too"
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]  # as transformers 4 wrote it
    (folder / "config.json").write_text(json.dumps(config))
    assert torch.equal(logits_of(load_checkpoint(folder, TASK).model), logits_of(model))


@both
@kinds
def test_a_quantized_folder_comes_back_bit_by_bit(family: str, kind: str, tmp_path: Path) -> None:
    model = make_calibrated(make_relative(family, kind))
    folder = save_calibrated(model, tmp_path / "calibrated")
    assert torch.equal(logits_of(load_checkpoint(folder, TASK).model), logits_of(model))
    assert not torch.equal(logits_of(model), logits_of(make_relative(family, kind))), "the quantizers are on"


@both
@kinds
def test_quantizers_off_and_taken_out_it_is_the_float_model(family: str, kind: str) -> None:
    model, original = make_relative(family, kind), make_relative(family, kind)
    report = wrap(model)
    parts = [row for row in report.rows if row.kind == "relative positions"]
    assert {row.name for row in parts} >= {ATTENTION[family]}
    assert {row.quantized for row in parts} == {False}
    with disable_quantizers(model):
        assert torch.equal(logits_of(model), logits_of(original))
    assert torch.equal(logits_of(unwrap(model)), logits_of(original))


@both
def test_distances_are_trained(family: str) -> None:
    model = make_calibrated(make_relative(family, "relative_key_query")).train()
    model(**make_batch()).loss.backward()
    gradient = model.get_submodule(ATTENTION[family]).get_parameter("distance_embedding.weight").grad
    assert gradient is not None
    assert float(gradient.abs().sum()) > 0
    assert [name for name, each in model.named_parameters() if each.requires_grad and each.grad is None] == []


@both
def test_another_attention_is_refused(family: str) -> None:
    model = make_relative(family, "relative_key")
    model.set_attn_implementation("sdpa")
    with pytest.raises(CheckpointError) as caught:
        logits_of(model)
    assert str(caught.value) == (
        "attention implementation 'sdpa' would leave out the relative positions of this checkpoint, 'qdq-relative' "
        "expected: do not call set_attn_implementation on it"
    )


def test_a_model_loaded_without_its_positions_is_not_wrapped() -> None:
    model = TINY_MODELS["bert"]()
    model.config.position_embedding_type = "relative_key"
    with pytest.raises(CheckpointError) as caught:
        qdq.wrap(model)
    assert str(caught.value) == (
        "the model was loaded without its relative positions (position_embedding_type is 'relative_key') and computes "
        "something else: run qdq convert on its folder, then load what it wrote after import qdq"
    )


@pytest.mark.parametrize(
    ("family", "kind", "message"),
    [
        (
            "squeezebert",
            "relative_key",
            "relative positions of the family 'squeezebert' are not supported (position_embedding_type is "
            "'relative_key' in config.json): BERT and ALBERT have them",
        ),
        (
            "bert",
            "relative_keys",
            "position_embedding_type 'relative_keys' in config.json is unknown: did you mean 'relative_key'? known: "
            "absolute, relative_key, relative_key_query",
        ),
    ],
)
def test_positions_there_are_not(family: str, kind: str, message: str, tmp_path: Path) -> None:
    folder = save_tiny(TINY_MODELS[family](), tiny_tokenizer(), tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text()) | {"position_embedding_type": kind}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder, TASK)
    assert str(caught.value) == message


def test_a_checkpoint_without_its_distances(tmp_path: Path) -> None:
    folder = save_tiny(TINY_MODELS["bert"](), tiny_tokenizer(), tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text()) | {"position_embedding_type": "relative_key"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"lacks weights .*distance_embedding.weight"):
        load_checkpoint(folder, TASK)
