"""What else a wrapped model takes and gives: embeddings instead of tokens, positions, groups of shared layers."""

from typing import Any

import pytest
import torch
from torch import Tensor

from qat.huggingface import wrap
from qat.quantizer import disable_quantizers
from tests.test_qat.test_families import enable_checkpointing, spread_depths
from tests.test_qat.wrapped import (
    FAMILIES,
    FamilyName,
    TinyModel,
    give_ranges,
    gradients,
    make_batch,
    make_eager,
    make_wrapped,
    tensors_of,
)
from tests.tiny import tiny_albert

SHOWN = {"output_hidden_states": True, "output_attentions": True}


def answers(model: TinyModel, given: dict[str, Any]) -> list[Tensor]:
    """All that a model answers, with its hidden states and attentions."""
    with torch.no_grad():
        return tensors_of(model(**given, **SHOWN))


def as_embeddings(model: TinyModel) -> dict[str, Tensor]:
    """The batch with the embeddings of its tokens in their place."""
    batch = make_batch()
    table = model.get_input_embeddings()
    return {**{name: x for name, x in batch.items() if name != "input_ids"}, "inputs_embeds": table(batch["input_ids"])}


def with_positions() -> dict[str, Tensor]:
    """The batch with its tokens at places of their own."""
    generator = torch.Generator().manual_seed(2)
    return {**make_batch(), "position_ids": torch.randperm(40, generator=generator)[:11].expand(3, -1) + 1}


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_in_place_of_tokens(family: FamilyName) -> None:
    model, plain = make_wrapped(family), make_eager(family)
    given = as_embeddings(plain)
    with disable_quantizers(model):
        assert all(map(torch.equal, answers(model, given), answers(plain, given)))
    assert torch.equal(answers(model, given)[1], answers(model, make_batch())[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_positions_of_ones_own(family: FamilyName) -> None:
    model, plain = make_wrapped(family), make_eager(family)
    given = with_positions()
    with disable_quantizers(model):
        assert all(map(torch.equal, answers(model, given), answers(plain, given)))
    assert not torch.equal(answers(model, given)[1], answers(model, make_batch())[1])


def grouped() -> TinyModel:
    return tiny_albert(num_hidden_layers=4, num_hidden_groups=2, inner_group_num=2)


def test_groups_of_shared_layers_are_the_float_model_when_switched_off() -> None:
    model, plain = grouped(), grouped()
    plain.set_attn_implementation("eager")
    wrap(model)
    give_ranges(model)
    with disable_quantizers(model):
        assert all(map(torch.equal, answers(model, make_batch()), answers(plain, make_batch())))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_groups_of_shared_layers_have_the_same_gradients_under_checkpointing(use_reentrant: bool) -> None:
    model = grouped()
    wrap(model)
    spread_depths(give_ranges(model)).train()
    expected = gradients(model)
    enable_checkpointing(model, use_reentrant=use_reentrant)
    found = gradients(model)
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
