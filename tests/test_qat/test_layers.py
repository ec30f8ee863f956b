"""Quantized Linears against the oracle, and weight ranges that follow the weights."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from qat.layers import QuantConv1d, QuantLinear, refresh_weight_ranges
from qat.quantizer import FakeQuantizer, Unquantized, disable_quantizers
from qat.recipe import WeightGranularity
from qat.spec import PerChannel, PerTensor, QuantSpec
from tests import oracles
from tests.test_qat.wrapped import (
    BERT_LAYER,
    FAMILIES,
    FamilyName,
    TinyModel,
    make_batch,
    make_float,
    make_wrapped,
)

QUERY, KEY, VALUE = (f"{BERT_LAYER}.attention.self.{part}" for part in ("query", "key", "value"))
FFN_OUTPUT = f"{BERT_LAYER}.output.dense"


def linear(model: TinyModel, path: str) -> QuantLinear:
    module = model.get_submodule(path)
    assert isinstance(module, QuantLinear)
    return module


def quantizer_of(layer: QuantLinear, slot: str) -> FakeQuantizer:
    quantizer = layer.get_submodule(slot)
    assert isinstance(quantizer, FakeQuantizer)
    return quantizer


def expected_weight(layer: QuantLinear, weights: WeightGranularity) -> torch.Tensor:
    weight = layer.weight.detach().numpy()
    axis = 0 if weights == "per_channel" else None
    amax = abs(weight).max(axis=None if axis is None else 1)
    return torch.from_numpy(oracles.fake_quantize(weight, oracles.scale_of(amax), axis))


@pytest.mark.parametrize("weights", ["per_tensor", "per_channel"])
def test_the_layer_is_a_linear_of_the_rounded_tensors(weights: WeightGranularity) -> None:
    layer = linear(make_wrapped("bert", weights=weights), FFN_OUTPUT)
    x = torch.randn(2, 5, 64)
    scale = oracles.scale_of(quantizer_of(layer, "input_quantizer").amax.numpy())
    rounded = torch.from_numpy(oracles.fake_quantize(x.numpy(), scale))
    weight = expected_weight(layer, weights)
    assert torch.equal(layer.quantized_weight(), weight)
    assert torch.equal(layer(x), functional.linear(rounded, weight, layer.bias))


def test_an_output_quantizer_rounds_what_leaves() -> None:
    layer = linear(make_wrapped("bert", "qdqbert"), FFN_OUTPUT)
    x = torch.randn(2, 5, 64)
    y = functional.linear(layer.input_quantizer(x), layer.quantized_weight(), layer.bias)
    scale = oracles.scale_of(quantizer_of(layer, "output_quantizer").amax.numpy())
    assert torch.equal(layer(x), torch.from_numpy(oracles.fake_quantize(y.detach().numpy(), scale)))


def test_a_product_quantizer_rounds_before_the_bias() -> None:
    layer = linear(make_wrapped("bert", "lean"), FFN_OUTPUT)
    x = torch.randn(2, 5, 64)
    product = functional.linear(layer.input_quantizer(x), layer.quantized_weight()).detach().numpy()
    scale = oracles.scale_of(quantizer_of(layer, "product_quantizer").amax.numpy())
    assert torch.equal(layer(x), torch.from_numpy(oracles.fake_quantize(product, scale)) + layer.bias)


def test_a_product_quantizer_without_a_bias() -> None:
    layer = linear(make_wrapped("bert", "lean"), FFN_OUTPUT)
    x = torch.randn(2, 5, 64)
    with torch.no_grad():
        layer.bias.zero_()
        expected = layer(x)
    layer.register_parameter("bias", None)
    assert torch.equal(layer(x), expected)


def test_a_product_is_seen_without_its_bias_and_off_it_changes_no_bit() -> None:
    model = make_wrapped("bert", "lean")
    layer, x, seen = linear(model, FFN_OUTPUT), torch.randn(2, 5, 64), list[torch.Tensor]()
    with disable_quantizers(model):
        assert torch.equal(layer(x), functional.linear(x, layer.weight, layer.bias))
        handle = layer.product_quantizer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        layer(x)
        handle.remove()
    assert torch.equal(seen[0], functional.linear(x, layer.weight))


@pytest.mark.parametrize("weights", ["per_tensor", "per_channel"])
def test_no_weight_is_ever_clipped(weights: WeightGranularity) -> None:
    layer = linear(make_wrapped("bert", weights=weights), FFN_OUTPUT)
    layer.quantized_weight().sum().backward()
    assert layer.weight.grad is not None
    assert torch.equal(layer.weight.grad, torch.ones_like(layer.weight))


def test_a_weight_of_zeros_stays_zero() -> None:
    layer = linear(make_wrapped("bert", weights="per_channel"), FFN_OUTPUT)
    with torch.no_grad():
        layer.weight[3] = 0.0
    assert torch.equal(layer.quantized_weight()[3], torch.zeros(64))


def test_the_range_follows_the_weight_without_a_call() -> None:
    layer = linear(make_wrapped("bert"), FFN_OUTPUT)
    with torch.no_grad():
        layer.weight[1, 2] = 9.0
    assert layer.weight_amax().tolist() == [9.0]
    assert torch.equal(layer.quantized_weight(), expected_weight(layer, "per_tensor"))


def test_the_projections_share_the_widest_range() -> None:
    model = make_wrapped("bert")
    layers = [linear(model, path) for path in (QUERY, KEY, VALUE)]
    widest = max(layer.weight.abs().max().item() for layer in layers)
    assert [layer.weight_amax().tolist() for layer in layers] == [[widest]] * 3
    with torch.no_grad():
        layers[1].weight[0, 0] = -7.0
    assert [layer.weight_amax().tolist() for layer in layers] == [[7.0]] * 3
    assert [layer.partners for layer in layers] == [
        (layers[1], layers[2]),
        (layers[0], layers[2]),
        (layers[0], layers[1]),
    ]


@pytest.mark.parametrize(("recipe", "weights"), [("tensorrt", "per_channel"), ("qdqbert", "per_tensor")])
def test_nothing_is_tied_otherwise(recipe: str, weights: WeightGranularity) -> None:
    model = make_wrapped("bert", recipe, weights=weights)
    for path in (QUERY, KEY, VALUE):
        layer = linear(model, path)
        assert layer.partners == ()
        assert torch.equal(layer.quantized_weight(), expected_weight(layer, weights))


@pytest.mark.parametrize("family", FAMILIES)
def test_partners_are_no_modules(family: FamilyName) -> None:
    plain, model = make_float(family), make_wrapped(family)
    assert set(dict(plain.named_parameters())) == set(dict(model.named_parameters()))
    assert all(name.endswith((".amax", ".gain")) for name in set(model.state_dict()) - set(plain.state_dict()))


@pytest.mark.parametrize("weights", ["per_tensor", "per_channel"])
def test_the_state_holds_the_ranges_after_a_training_step(weights: WeightGranularity) -> None:
    model = make_wrapped("bert", weights=weights)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(**make_batch()).loss.backward()
    optimizer.step()
    state = model.state_dict()
    for path in (QUERY, FFN_OUTPUT):
        stored = state[f"{path}.weight_quantizer.amax"]
        assert torch.equal(stored, linear(model, path).weight_amax())
        assert not torch.equal(stored, before[f"{path}.weight_quantizer.amax"])


def test_ranges_are_stored_on_request() -> None:
    model = make_wrapped("bert")
    layer = linear(model, FFN_OUTPUT)
    with torch.no_grad():
        layer.weight[0, 0] = 5.0
    refresh_weight_ranges(model)
    assert quantizer_of(layer, "weight_quantizer").amax.tolist() == [5.0]


def test_an_export_reads_the_stored_range() -> None:
    layer = linear(make_wrapped("bert"), FFN_OUTPUT)
    quantizer_of(layer, "weight_quantizer").set_range(torch.tensor([127.0]))
    program = torch.export.export(layer, (torch.ones(1, 64),), strict=False)
    rounded = functional.linear(layer.input_quantizer(torch.ones(1, 64)), layer.weight.round(), layer.bias)
    assert torch.equal(program.module()(torch.ones(1, 64)), rounded)


@pytest.mark.parametrize("groups", [1, 2, 8], ids=["dense", "grouped", "depthwise"])
@pytest.mark.parametrize("weights", ["per_tensor", "per_channel"])
def test_a_convolution_is_one_of_the_rounded_tensors(groups: int, weights: WeightGranularity) -> None:
    layer = QuantConv1d(8, 8, 3, padding=1, groups=groups)
    channels = 8 if weights == "per_channel" else 1
    granularity = PerChannel(0) if weights == "per_channel" else PerTensor()
    layer.weight_quantizer = FakeQuantizer(
        QuantSpec(granularity=granularity, range_source="weight"), ranges=channels, name="weight"
    )
    layer.input_quantizer = FakeQuantizer(QuantSpec(token_axis=2), ranges=1, name="input")
    layer.input_quantizer.set_range(torch.tensor([2.0]))
    layer.product_quantizer, layer.output_quantizer, layer.partners = Unquantized(), Unquantized(), ()
    x, weight = torch.randn(2, 8, 5), layer.weight.detach().numpy()
    amax = abs(weight).max(axis=(1, 2) if weights == "per_channel" else None)
    axis = 0 if weights == "per_channel" else None
    expected = torch.from_numpy(oracles.fake_quantize(weight, oracles.scale_of(amax), axis))
    rounded = torch.from_numpy(oracles.fake_quantize(x.numpy(), oracles.scale_of(torch.tensor([2.0]).numpy())))
    assert torch.equal(layer.quantized_weight(), expected)
    assert torch.equal(layer(x), functional.conv1d(rounded, expected, layer.bias, padding=1, groups=groups))
    layer.product_quantizer = FakeQuantizer(QuantSpec(token_axis=2), ranges=1, name="product")
    layer.product_quantizer.set_range(torch.tensor([1.0]))
    product = functional.conv1d(rounded, expected, None, padding=1, groups=groups).detach().numpy()
    levels = torch.from_numpy(oracles.fake_quantize(product, oracles.scale_of(np.array([1.0], np.float32))))
    assert layer.bias is not None
    assert torch.equal(layer(x), levels + layer.bias[:, None])
