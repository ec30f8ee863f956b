"""Pooling: vectors against the definition, padding that counts nowhere, sums that FP16 holds, a model that does it."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModel, PreTrainedModel

from qat.errors import RecipeError
from qat.huggingface import wrap
from qat.pooling import EmbeddingOutput, Mode, Pooling, read_pooling, set_pooling
from qat.recipe import validate_settings
from tests.test_qat.wrapped import give_ranges
from tests.tiny import TINY_MODELS, spread_weights
from tests.tolerances import POOLED, POOLED_FP16

BATCH = {
    "input_ids": torch.tensor([[2, 9, 8, 3], [2, 7, 3, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
}
MEAN = Pooling(pooling="mean", normalize=True)

lengths = st.lists(st.integers(0, 6), min_size=1, max_size=4)


def expected(states: Tensor, mask: Tensor, pooling: Pooling) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """The definition, row by row in FP64."""
    found = []
    for row, real in zip(states.double().numpy(), mask.numpy().astype(bool), strict=True):
        vector = row[0] if pooling.pooling == "cls" else row[real].sum(axis=0) / max(1, real.sum())
        length = np.linalg.norm(vector)
        found.append(vector / length if pooling.normalize and length else vector)
    return np.array(found)


def base_model(family: str = "bert") -> PreTrainedModel:
    model: PreTrainedModel = AutoModel.from_config(TINY_MODELS[family]().config)
    spread_weights(model, 0)
    model.train(False)
    return model


@given(lengths, st.sampled_from(["cls", "mean"]), st.booleans(), st.integers(0, 99))
def test_vectors_are_those_of_the_definition(sizes: list[int], mode: Mode, normalize: bool, seed: int) -> None:
    states = torch.randn(len(sizes), 6, 8, generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(6) < torch.tensor(sizes)[:, None]).long()
    pooling = Pooling(pooling=mode, normalize=normalize)
    found = pooling.pool(states, mask)
    np.testing.assert_allclose(found.numpy(), expected(states, mask, pooling), atol=POOLED.value)
    noise = torch.where(mask[..., None] == 1, states, torch.full_like(states, 1e4))
    if mode == "mean":
        assert torch.equal(pooling.pool(noise, mask), found), "padding counts nowhere"


def test_without_a_mask_every_token_is_real() -> None:
    states = torch.randn(2, 5, 8)
    np.testing.assert_allclose(MEAN.pool(states, None), MEAN.pool(states, torch.ones(2, 5)), atol=POOLED.value)


@pytest.mark.parametrize("size", [1e-3, 1.0, 3e4])
def test_no_sum_is_larger_than_fp16_holds(size: float) -> None:
    states = (torch.rand(2, 500, 384, generator=torch.Generator().manual_seed(0)) * size).half()
    mask = torch.ones(2, 500, dtype=torch.long)
    wanted = expected(states, mask, MEAN)
    np.testing.assert_allclose(MEAN.pool(states, mask).double(), wanted, atol=POOLED_FP16.value)


@pytest.mark.parametrize("family", TINY_MODELS)
def test_a_model_answers_with_the_vectors_of_its_tokens(family: str) -> None:
    model = base_model(family)
    plain = model(**BATCH)
    set_pooling(model, MEAN)
    found = model(**BATCH, output_hidden_states=True, output_attentions=True)
    assert isinstance(found, EmbeddingOutput)
    assert torch.equal(found["last_hidden_state"], plain.last_hidden_state)
    assert torch.equal(found["sentence_embedding"], MEAN.pool(plain.last_hidden_state, BATCH["attention_mask"]))
    assert found.hidden_states is not None
    assert found.attentions is not None


def test_the_mask_is_found_where_it_is_given_by_place() -> None:
    model = base_model()
    set_pooling(model, MEAN)
    named, placed = model(**BATCH), model(BATCH["input_ids"], BATCH["attention_mask"])
    assert torch.equal(named.sentence_embedding, placed.sentence_embedding)


def test_a_tuple_stays_one() -> None:
    model = base_model()
    set_pooling(model, MEAN)
    assert isinstance(model(**BATCH, return_dict=False), tuple)


def test_the_last_setting_holds_and_none_takes_it_away() -> None:
    model = base_model()
    for pooling in (MEAN, Pooling(pooling="cls")):
        set_pooling(model, pooling)
    assert len(model._forward_hooks) == 1
    states = model(**BATCH).last_hidden_state
    assert torch.equal(model(**BATCH).sentence_embedding, states[:, 0])
    set_pooling(model, Pooling())
    assert not model._forward_hooks
    assert read_pooling(model.config) == Pooling()


def test_a_copy_pools_for_itself() -> None:
    model = base_model()
    set_pooling(model, MEAN)
    other = copy.deepcopy(model)
    set_pooling(model, Pooling())
    assert other(**BATCH).sentence_embedding is not None


@pytest.mark.parametrize("family", TINY_MODELS)
def test_a_quantized_folder_gives_the_same_vectors(family: str, tmp_path: Path) -> None:
    model = base_model(family)
    set_pooling(model, MEAN)
    wrap(model)
    give_ranges(model)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert read_pooling(loaded.config) == MEAN
    with torch.no_grad():
        assert torch.equal(loaded(**BATCH).sentence_embedding, model(**BATCH).sentence_embedding)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pooling": "max"}, "task settings: pooling: Input should be 'none', 'cls' or 'mean' ('max' given)"),
        ({"normalize": True}, "task settings: Value error, task.normalize needs one vector a text: add --set "
         "task.pooling=mean, or cls"),
        ({"poolin": "cls"}, "task settings: unknown key 'poolin', did you mean 'pooling'? known: longest, normalize, "
         "pooling"),
    ],
)  # fmt: skip
def test_another_setting_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        validate_settings(Pooling, values, where="task settings")
    assert str(caught.value) == message
