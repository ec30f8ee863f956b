"""SqueezeBERT's own: where its quantizers sit, which weights share a range, groups of any count, checkpointing."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from qat.huggingface import unwrap, wrap
from qat.layers import QuantConv1d
from qat.quantizer import FakeQuantizer, Unquantized, disable_quantizers, named_quantizers
from qat.recipe import Recipe, WeightGranularity
from qat.split import split_outlier_neurons
from tests import oracles
from tests.test_qat.wrapped import SQUEEZEBERT_LAYER, give_ranges, make_batch, make_wrapped, same_answers
from tests.tiny import tiny_squeezebert

ATTENTION = frozenset({"matmul_qk.left", "matmul_qk.right", "matmul_qkv.right", "softmax.probs"})
PLACED = {
    "tensorrt": {
        "hidden",
        "post_attention.conv1d.input",
        "post_attention.ffn",
        "intermediate.conv1d.product",
        "output.conv1d.input",
    },
    "linear": {"attention.hidden", *(f"{part}.conv1d.input" for part in ("post_attention", "intermediate", "output"))},
    "qdqbert": {
        *(f"attention.{part}.input" for part in ("query", "key", "value")),
        *(f"{part}.conv1d.{side}" for part in ("post_attention", "output") for side in ("input", "output")),
        "intermediate.conv1d.input",
        "post_attention.residual",
        "output.residual",
    },
}
UNEVEN = {"q_groups": 8, "k_groups": 2, "v_groups": 8, "intermediate_groups": 16, "output_groups": 1}


def placed(recipe: str) -> set[str]:
    found = [(name, each) for name, each in named_quantizers(make_wrapped("squeezebert", recipe))]
    paths = [name for name, each in found if name.startswith(SQUEEZEBERT_LAYER) and each.spec.range_source != "weight"]
    return {path.removeprefix(f"{SQUEEZEBERT_LAYER}.").removesuffix("_quantizer") for path in paths}


@pytest.mark.parametrize("recipe", ["tensorrt", "qdqbert"])
def test_where_its_quantizers_sit(recipe: str) -> None:
    assert placed(recipe) == PLACED[recipe] | {f"attention.{slot}" for slot in ATTENTION}


def test_where_they_sit_with_gemms_only() -> None:
    assert placed("linear") == PLACED["linear"]


def test_a_shared_tensor_is_rounded_once_for_all_its_readers() -> None:
    model = make_wrapped("squeezebert")
    seen: dict[str, Tensor] = {}
    readers = (*(f"attention.{part}" for part in ("query", "key", "value")), "post_attention", "intermediate", "output")
    for path in readers:
        module = model.get_submodule(f"{SQUEEZEBERT_LAYER}.{path}")
        module.register_forward_pre_hook(lambda module, given, path=path: seen.__setitem__(path, given[-1]))
    model(**make_batch())
    assert all(seen[path] is seen["attention.query"] for path in ("attention.key", "attention.value", "post_attention"))
    assert seen["output"] is seen["intermediate"]


@pytest.mark.parametrize(
    ("groups", "tied"),
    [
        ({}, [{"query", "key", "value"}]),
        ({"q_groups": 2, "k_groups": 4, "v_groups": 2}, [{"query", "value"}, {"key"}]),
        ({"q_groups": 1, "k_groups": 2, "v_groups": 4}, [{"query"}, {"key"}, {"value"}]),
    ],
)
def test_projections_of_one_group_count_share_a_weight_range(groups: Mapping[str, int], tied: list[set[str]]) -> None:
    model = tiny_squeezebert(**groups)
    wrap(model)
    ranges: dict[float, set[str]] = {}
    for part in ("query", "key", "value"):
        layer = model.get_submodule(f"{SQUEEZEBERT_LAYER}.attention.{part}")
        assert isinstance(layer, QuantConv1d)
        ranges.setdefault(layer.weight_amax().item(), set()).add(part)
    assert sorted(map(sorted, ranges.values())) == sorted(map(sorted, tied))


@pytest.mark.parametrize("weights", ["per_tensor", "per_channel"])
def test_a_grouped_convolution_is_that_of_rounded_numbers(weights: WeightGranularity) -> None:
    model = tiny_squeezebert(**UNEVEN)
    wrap(model, Recipe.load("tensorrt").model_copy(update={"weights": weights}))
    give_ranges(model)
    layer = model.get_submodule(f"{SQUEEZEBERT_LAYER}.intermediate.conv1d")
    assert isinstance(layer, QuantConv1d)
    assert isinstance(layer.weight_quantizer, FakeQuantizer)
    layer.product_quantizer = Unquantized()
    x = torch.randn(2, 32, 5)
    assert layer.bias is not None
    answer, bias = layer(x).detach().numpy(), layer.bias.detach().numpy()
    scale = layer.weight_quantizer.scale().numpy()
    weight = oracles.fake_quantize(layer.weight.detach().numpy(), scale, 0 if weights == "per_channel" else None)
    size = 32 // 16
    parts = [
        np.einsum(
            "oi,bit->bot", weight[4 * group : 4 * group + 4, :, 0], x.numpy()[:, size * group : size * (group + 1)]
        )
        for group in range(16)
    ]
    np.testing.assert_allclose(answer, np.concatenate(parts, axis=1) + bias[:, None], rtol=1e-5)


@pytest.mark.parametrize("groups", [UNEVEN, {"post_attention_groups": 8, "q_groups": 1, "k_groups": 32}])
def test_groups_of_any_count_wrap_and_unwrap(groups: Mapping[str, int]) -> None:
    plain, model = tiny_squeezebert(**groups), tiny_squeezebert(**groups)
    wrap(model)
    give_ranges(model)
    assert not same_answers(model, plain)
    with disable_quantizers(model):
        assert same_answers(model, plain)
    unwrap(model)
    assert same_answers(model, plain)
    assert {type(module) for module in model.modules()} == {type(module) for module in plain.modules()}


def test_probabilities_are_rounded_before_dropout() -> None:
    model = make_wrapped("squeezebert").train()
    softmax = model.get_submodule(f"{SQUEEZEBERT_LAYER}.attention.softmax")
    product = model.get_submodule(f"{SQUEEZEBERT_LAYER}.attention.matmul_qkv")
    seen: list[Tensor] = []
    softmax.register_forward_hook(lambda module, given, answer: seen.append(answer.detach()))
    product.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    alone = torch.ones(8, 1, dtype=torch.long)  # one token attends to itself: every probability is 1, but for its scale
    model(input_ids=alone, attention_mask=alone)
    probs, dropped = seen
    kept = dropped > 0
    torch.testing.assert_close(dropped[kept], probs[kept] / 0.9)
    assert float(probs.max()) <= 1.0 < float(dropped.max())


def test_its_neurons_are_not_split() -> None:
    model = tiny_squeezebert()
    with torch.no_grad():
        model.get_parameter(f"{SQUEEZEBERT_LAYER}.output.conv1d.weight")[3, 5] = 100.0
    before = {name: each.clone() for name, each in model.named_parameters()}
    assert split_outlier_neurons(model) == ()
    assert all(torch.equal(each, before[name]) for name, each in model.named_parameters())
