"""ConvBERT: where its quantizers sit, its grouped Linears against the oracle, its options, and what it refuses."""

import itertools
from typing import cast

import numpy as np
import pytest
import torch
from torch import nn
from transformers.models.convbert.modeling_convbert import GroupedLinearLayer

from qat.errors import CheckpointError
from qat.families.convbert import DEPTHWISE, SPAN, QuantConvBertDropout
from qat.grouped_linear import QuantGroupedLinear
from qat.huggingface import wrap
from qat.layers import QuantizedLayer
from qat.quantizer import FakeQuantizer, Unquantized, disable_quantizers, named_quantizers
from qat.recipe import WeightGranularity
from qat.spec import PerChannel, PerTensor, QuantSpec
from tests import oracles
from tests.test_qat.wrapped import CONVBERT_LAYER, FACTS, give_ranges, make_wrapped, same_answers
from tests.tiny import tiny_convbert

INNER = "attention.self"
PROJECTIONS = tuple(f"{INNER}.{part}" for part in ("query", "key", "value", "conv_out_layer"))
BRANCH = tuple(f"{INNER}.{part}.input_quantizer" for part in ("key_conv_attn_layer.pointwise", "conv_kernel_layer"))
IN_AND_OUT = ("input", "output")
OPTIONS = tuple(itertools.product((1, 2, 4), (1, 2, 4), (1, 5)))
"""num_groups, head_ratio, conv_kernel_size."""


def placed(recipe: str) -> set[str]:
    """The activation quantizers of the first layer, by their paths in it."""
    found = [(name, each) for name, each in named_quantizers(make_wrapped("convbert", recipe))]
    inside = [(name, each) for name, each in found if name.startswith(CONVBERT_LAYER)]
    return {name.removeprefix(f"{CONVBERT_LAYER}.") for name, each in inside if each.spec.range_source != "weight"}


def test_placed_by_default() -> None:
    assert placed("tensorrt") == {
        "attention.hidden_quantizer",
        *FACTS["convbert"].attention,
        *BRANCH,
        "attention.output.dense.input_quantizer",
        "ffn_quantizer",
        "intermediate.dense.product_quantizer",
        "output.dense.input_quantizer",
    }


def test_placed_in_the_way_of_qdqbert() -> None:
    assert placed("qdqbert") == {
        *(f"{path}.input_quantizer" for path in PROJECTIONS),
        "attention.output.residual_quantizer",
        *FACTS["convbert"].attention,
        *BRANCH,
        *(f"{dense}.{side}_quantizer" for dense in ("attention.output.dense", "output.dense") for side in IN_AND_OUT),
        "intermediate.dense.input_quantizer",
        "output.residual_quantizer",
    }


def test_placed_on_gemms_only() -> None:
    assert placed("linear") == {
        f"{INNER}.hidden_quantizer",
        *BRANCH,
        "attention.output.dense.input_quantizer",
        "intermediate.dense.input_quantizer",
        "output.dense.input_quantizer",
    }


def test_the_report_gives_the_reason_for_what_stays_float() -> None:
    rows = {(row.name, row.kind): row for row in wrap(tiny_convbert()).rows if row.name.startswith(CONVBERT_LAYER)}
    inner = f"{CONVBERT_LAYER}.{INNER}"
    depthwise = rows[f"{inner}.key_conv_attn_layer.depthwise", "depthwise convolution"]
    span = rows[inner, "span convolution"]
    assert (depthwise.quantized, depthwise.reason) == (False, DEPTHWISE)
    assert (span.quantized, span.reason) == (False, SPAN)


@pytest.mark.parametrize(("groups", "ratio", "kernel"), OPTIONS)
def test_every_option_is_the_float_model_when_switched_off(groups: int, ratio: int, kernel: int) -> None:
    model, plain = (
        tiny_convbert(num_groups=groups, head_ratio=ratio, conv_kernel_size=kernel, num_hidden_layers=1)
        for _ in range(2)
    )
    wrap(model)
    give_ranges(model)
    assert not same_answers(model, plain)
    with disable_quantizers(model):
        assert same_answers(model, plain)


def test_the_four_projections_share_the_widest_range() -> None:
    model = make_wrapped("convbert")
    layers = [cast(QuantizedLayer, model.get_submodule(f"{CONVBERT_LAYER}.{path}")) for path in PROJECTIONS]
    widest = max(layer.weight.abs().max().item() for layer in layers)
    assert [layer.weight_amax().tolist() for layer in layers] == [[widest]] * 4


def test_the_probabilities_are_rounded_before_dropout() -> None:
    dropout = QuantConvBertDropout(0.5)
    dropout.probs_quantizer = FakeQuantizer(QuantSpec(range_source="constant"), ranges=1, name="probs")
    probs = torch.softmax(torch.randn(2, 2, 8, 8), dim=-1)
    rounded = torch.from_numpy(oracles.fake_quantize(probs.numpy(), oracles.scale_of(np.array(1.0, np.float32))))
    assert torch.equal(dropout.eval()(probs), rounded)
    dropped = dropout.train()(probs)
    assert ((dropped == 0) | (dropped == 2 * rounded)).all()
    assert (dropped > 0).any()
    assert (dropped[rounded > 0] == 0).any()


def make_grouped(groups: int, weights: WeightGranularity) -> QuantGroupedLinear:
    layer = GroupedLinearLayer(input_size=16, output_size=8, num_groups=groups)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    layer.__class__ = QuantGroupedLinear
    quantized = cast(QuantGroupedLinear, layer)
    granularity = PerChannel(2) if weights == "per_channel" else PerTensor()
    quantized.weight_quantizer = FakeQuantizer(
        QuantSpec(granularity=granularity, range_source="weight"),
        ranges=8 // groups if weights == "per_channel" else 1,
        name="weight",
    )
    quantized.input_quantizer = FakeQuantizer(QuantSpec(), ranges=1, name="input")
    quantized.input_quantizer.set_range(torch.tensor([2.0]))
    quantized.product_quantizer, quantized.output_quantizer, quantized.partners = Unquantized(), Unquantized(), ()
    return quantized


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("weights", ["per_tensor", "per_channel"])
def test_a_grouped_linear_is_one_of_the_rounded_tensors(groups: int, weights: WeightGranularity) -> None:
    layer, x = make_grouped(groups, weights), torch.randn(3, 5, 16)
    weight = layer.weight.detach().numpy()
    amax = abs(weight).max(axis=(0, 1) if weights == "per_channel" else None)
    rounded = oracles.fake_quantize(weight, oracles.scale_of(amax), 2 if weights == "per_channel" else None)
    assert torch.equal(layer.quantized_weight(), torch.from_numpy(rounded))
    plain = GroupedLinearLayer(input_size=16, output_size=8, num_groups=groups)
    bias = layer.bias.detach().clone()
    plain.weight, plain.bias = nn.Parameter(torch.from_numpy(rounded)), nn.Parameter(bias.clone())
    inputs = torch.from_numpy(oracles.fake_quantize(x.numpy(), oracles.scale_of(np.array([2.0], np.float32))))
    assert torch.equal(layer(x), plain(inputs))
    layer.product_quantizer = FakeQuantizer(QuantSpec(), ranges=1, name="product")
    layer.product_quantizer.set_range(torch.tensor([1.0]))
    nn.init.zeros_(plain.bias)
    levels = oracles.fake_quantize(plain(inputs).detach().numpy(), oracles.scale_of(np.array([1.0], np.float32)))
    assert torch.equal(layer(x), torch.from_numpy(levels) + bias)


def test_a_wrapped_model_holds_per_channel_ranges_of_grouped_weights() -> None:
    model = make_wrapped("convbert", weights="per_channel")
    sizes = {name: len(each.amax) for name, each in named_quantizers(model) if name.endswith("dense.weight_quantizer")}
    layer = {name.removeprefix(f"{CONVBERT_LAYER}."): size for name, size in sizes.items() if CONVBERT_LAYER in name}
    assert layer == {
        "attention.output.dense.weight_quantizer": 32,
        "intermediate.dense.weight_quantizer": 32,
        "output.dense.weight_quantizer": 16,
    }


@pytest.mark.parametrize("kernel", [2, 8])
def test_an_even_kernel_is_refused(kernel: int) -> None:
    with pytest.raises(CheckpointError) as caught:
        wrap(tiny_convbert(conv_kernel_size=kernel))
    assert str(caught.value) == (
        f"a ConvBERT with an even kernel cannot run (conv_kernel_size is {kernel} in its config.json): its convolution "
        "gives one token too many; an odd size is expected, as 9"
    )
