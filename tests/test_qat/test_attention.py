"""The attention function against transformers' own, and the refusal of any other implementation."""

import pytest
import torch
from torch import Tensor, nn
from transformers.models.bert.modeling_bert import eager_attention_forward

from qat.attention import ATTENTION, QuantAttention, quantized_attention
from qat.errors import CheckpointError
from qat.quantizer import FakeQuantizer, Unquantized
from qat.spec import QuantSpec
from tests import oracles
from tests.test_qat.wrapped import (
    FAMILIES,
    REGISTRY_FAMILIES,
    FamilyName,
    make_batch,
    make_float,
    make_wrapped,
    same_answers,
)

SLOTS = ("query_quantizer", "key_quantizer", "value_quantizer", "probs_quantizer")
SCALING = 0.35
RANGES = (2.0, 1.5, 3.0, 1.0)


def make_module(*, quantized: bool) -> QuantAttention:
    module = QuantAttention()
    for slot, amax in zip(SLOTS, RANGES, strict=True):
        filled = FakeQuantizer(QuantSpec(), ranges=1, name=slot)
        filled.set_range(torch.tensor([amax]))
        setattr(module, slot, filled if quantized else Unquantized())
    return module.eval()


def make_tensors() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    query, key, value = torch.randn(3, 2, 4, 7, 8)
    mask = torch.zeros(2, 1, 1, 7)
    mask[1, ..., 4:] = torch.finfo(torch.float32).min
    return query, key, value, mask


def round_off(x: Tensor, amax: float) -> Tensor:
    return torch.from_numpy(oracles.fake_quantize(x.numpy(), oracles.scale_of(torch.tensor(amax).numpy())))


def test_in_float_it_is_transformers_own() -> None:
    query, key, value, mask = make_tensors()
    ours = quantized_attention(make_module(quantized=False), query, key, value, mask, scaling=SCALING)
    theirs = eager_attention_forward(nn.Module().eval(), query, key, value, mask, scaling=SCALING)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("masked", [False, True])
def test_both_products_take_rounded_tensors(masked: bool) -> None:
    query, key, value, mask = make_tensors()
    context, probs = quantized_attention(
        make_module(quantized=True), query, key, value, mask if masked else None, scaling=SCALING
    )
    scores = round_off(query, 2.0) @ round_off(key, 1.5).transpose(2, 3) * SCALING
    scores = scores + mask if masked else scores
    expected = round_off(torch.softmax(scores, dim=-1), 1.0)
    assert torch.equal(probs, expected)
    assert torch.equal(context, (expected @ round_off(value, 3.0)).transpose(1, 2))


def test_masked_tokens_get_nothing() -> None:
    query, key, value, mask = make_tensors()
    _, probs = quantized_attention(make_module(quantized=True), query, key, value, mask, scaling=SCALING)
    assert torch.equal(probs[1, ..., 4:], torch.zeros(4, 7, 3))


def test_dropout_comes_after_rounding() -> None:
    query, key, value, mask = make_tensors()
    module = make_module(quantized=True)
    _, kept = quantized_attention(module, query, key, value, mask, scaling=SCALING, dropout=0.5)
    _, dropped = quantized_attention(module.train(), query, key, value, mask, scaling=SCALING, dropout=0.5)
    assert ((dropped == 0) | (dropped == 2 * kept)).all()
    assert (dropped > 1).any()
    assert (dropped[kept > 0] == 0).any()


@pytest.mark.parametrize("family", REGISTRY_FAMILIES)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_another_implementation_is_refused(family: FamilyName, implementation: str) -> None:
    model = make_wrapped(family)
    model.set_attn_implementation(implementation)
    with pytest.raises(CheckpointError) as caught:
        model(**make_batch())
    assert str(caught.value) == (
        f"attention implementation '{implementation}' would drop the attention quantizers, '{ATTENTION}' expected: "
        "do not call set_attn_implementation on a quantized model; qdq.unwrap gives the float model back"
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_choosing_ours_again_is_allowed(family: FamilyName) -> None:
    model = make_wrapped(family)
    model.set_attn_implementation(ATTENTION)
    assert same_answers(model, make_wrapped(family))


@pytest.mark.parametrize("family", REGISTRY_FAMILIES)
def test_a_float_model_keeps_its_choice(family: FamilyName) -> None:
    make_wrapped(family)
    assert make_float(family).config._attn_implementation == "sdpa"
