"""Where each family's quantizers sit, and ALBERT's shared layer: one range a depth, gradients under checkpointing."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from qat.errors import CheckpointError
from qat.fake_quant import fake_quantize, scale_from_amax
from qat.families import Family, find_family, in_encoder_layer
from qat.families.albert import depth_quantizers, group_schedule
from qat.families.base import register_family
from qat.families.bert import BERT
from qat.huggingface import wrap
from qat.quantizer import FakeQuantizer, named_quantizers
from qat.recipe import Recipe, Role, Rule
from tests.test_qat.wrapped import (
    ALBERT_LAYER,
    BERT_LAYER,
    FACTS,
    FAMILIES,
    FamilyName,
    TinyModel,
    give_ranges,
    gradients,
    make_batch,
    make_float,
    make_wrapped,
)
from tests.tiny import tiny_albert

IN_AND_OUT = ("input", "output")
FOUR = ("query_quantizer", "key_quantizer", "value_quantizer", "probs_quantizer")


def slots_of(model: TinyModel, layer: str) -> set[str]:
    """The activation quantizers of a layer, by their paths in it."""
    found = [(name, quantizer) for name, quantizer in named_quantizers(model) if name.startswith(layer)]
    return {name.removeprefix(f"{layer}.") for name, quantizer in found if quantizer.spec.range_source != "weight"}


def wrap_roles(family: FamilyName, *roles: Role) -> TinyModel:
    model = make_float(family)
    wrap(model, Recipe(name="mine", rules=(Rule(layers="*", roles=roles, quantize=True),)))
    return model


def placed(family: FamilyName, recipe: str) -> set[str]:
    return slots_of(make_wrapped(family, recipe), FACTS[family].layer)


def test_bert_by_default() -> None:
    assert placed("bert", "tensorrt") == {
        "attention.hidden_quantizer",
        *(f"attention.self.{slot}" for slot in FOUR),
        "attention.output.dense.input_quantizer",
        "ffn_quantizer",
        "intermediate.dense.product_quantizer",
        "output.dense.input_quantizer",
    }


def test_albert_by_default() -> None:
    assert placed("albert", "tensorrt") == {
        "attention.hidden_quantizer",
        *(f"attention.{slot}" for slot in FOUR),
        "attention.dense.input_quantizer",
        "attention.ffn_quantizer",
        "ffn.product_quantizer",
        "ffn_output.input_quantizer",
    }


@pytest.mark.parametrize(
    ("family", "dense", "output"),
    [
        ("bert", "attention.output.dense", "output.dense"),
        ("albert", "attention.dense", "ffn_output"),
        ("distilbert", "attention.out_lin", "ffn.lin2"),
        ("convbert", "attention.output.dense", "output.dense"),
        ("squeezebert", "post_attention.conv1d", "output.conv1d"),
    ],
)
def test_lean_adds_the_products_before_the_residuals(family: FamilyName, dense: str, output: str) -> None:
    more = {f"{dense}.product_quantizer", f"{output}.product_quantizer"}
    assert placed(family, "lean") == placed(family, "tensorrt") | more


def test_bert_as_qdqbert_had_it() -> None:
    assert placed("bert", "qdqbert") == {
        *(f"attention.self.{part}.input_quantizer" for part in ("query", "key", "value")),
        "attention.output.residual_quantizer",
        *(f"attention.self.{slot}" for slot in FOUR),
        *(f"{dense}.{slot}_quantizer" for dense in ("attention.output.dense", "output.dense") for slot in IN_AND_OUT),
        "intermediate.dense.input_quantizer",
        "output.residual_quantizer",
    }


def test_albert_in_the_same_way_as_far_as_it_has_places() -> None:
    assert placed("albert", "qdqbert") == {
        "attention.hidden_quantizer",
        *(f"attention.{slot}" for slot in FOUR),
        *(f"{dense}.{slot}_quantizer" for dense in ("attention.dense", "ffn_output") for slot in IN_AND_OUT),
        "attention.ffn_quantizer",
    }


def test_gemms_only() -> None:
    assert placed("bert", "linear") == {
        "attention.self.hidden_quantizer",
        "attention.output.dense.input_quantizer",
        "intermediate.dense.input_quantizer",
        "output.dense.input_quantizer",
    }
    assert placed("albert", "linear") == {
        *(f"attention.{part}.input_quantizer" for part in ("query", "key", "value")),
        "attention.dense.input_quantizer",
        "ffn.input_quantizer",
        "ffn_output.input_quantizer",
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_is_quantized_whole(family: FamilyName) -> None:
    assert slots_of(wrap_roles(family, "attention"), FACTS[family].layer) == FACTS[family].attention


def test_bert_residuals_alone() -> None:
    model = wrap_roles("bert", "residual")
    assert slots_of(model, BERT_LAYER) == {"attention.output.residual_quantizer", "output.residual_quantizer"}


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_outside_the_layers_is_quantized(family: FamilyName) -> None:
    assert all(in_encoder_layer(name) for name, _ in named_quantizers(make_wrapped(family, "qdqbert")))


def test_a_shared_tensor_is_rounded_once_for_all_its_readers() -> None:
    model = make_wrapped("bert")
    seen: list[torch.Tensor] = []

    def note(module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        seen.append(arguments[-1])

    attention = f"{BERT_LAYER}.attention"
    for path in (*(f"{attention}.self.{part}" for part in ("query", "key", "value")), f"{attention}.output"):
        model.get_submodule(path).register_forward_pre_hook(note)
    model(**make_batch())
    hidden = model.get_submodule(f"{attention}.hidden_quantizer")
    assert isinstance(hidden, FakeQuantizer)
    assert all(each is seen[0] for each in seen)
    assert torch.equal(seen[0], fake_quantize(seen[0], scale_from_amax(hidden.amax[0], "float16"), None))


def test_a_family_of_a_taken_name() -> None:
    with pytest.raises(ValueError, match="family 'bert' is registered twice"):
        register_family(BERT)


def test_an_unknown_family() -> None:
    with pytest.raises(CheckpointError) as caught:
        find_family("alberta")
    assert str(caught.value) == (
        "model family 'alberta' is not supported: did you mean 'albert'? known: albert, bert, convbert, distilbert, "
        "electra, roberta, squeezebert"
    )
    assert isinstance(find_family("albert"), Family)


def enable_checkpointing(model: PreTrainedModel, *, use_reentrant: bool) -> None:
    """Gradient checkpointing under the name this transformers gives it."""
    names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
    enable: Callable[[dict[str, Any]], None] = getattr(model, next(name for name in names if hasattr(model, name)))
    enable({"use_reentrant": use_reentrant})


def spread_depths(model: TinyModel) -> TinyModel:
    """``model`` with ranges that grow fourfold from depth to depth, the first one clipping much."""
    for _, quantizer in named_quantizers(model):
        if quantizer.spec.range_source == "calibrated":
            quantizer.set_range(0.5 * 4.0 ** torch.arange(len(quantizer.amax)))
    return model


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_gives_the_same_gradients(family: FamilyName, use_reentrant: bool) -> None:
    model = spread_depths(make_wrapped(family)).train()
    expected = gradients(model)
    enable_checkpointing(model, use_reentrant=use_reentrant)
    runs: list[nn.Module] = []
    attention = model.get_submodule(f"{FACTS[family].layer}.attention")
    attention.register_forward_pre_hook(lambda module, _: runs.append(module))
    found = gradients(model)
    assert len(runs) == 2 * FACTS[family].runs, "the forward pass, and once more going back"
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def test_the_gradients_tell_the_depths_apart() -> None:
    model = spread_depths(make_wrapped("albert"))
    mixed = copy.deepcopy(model)
    for _, quantizer in named_quantizers(mixed):
        if quantizer.spec.range_source == "calibrated":
            quantizer.set_range(quantizer.amax.flip(0))
    weight = f"{ALBERT_LAYER}.ffn.weight"
    assert not torch.equal(gradients(model)[weight], gradients(mixed)[weight])


def test_every_depth_rounds_with_its_own_range() -> None:
    model = spread_depths(make_wrapped("albert"))
    layer = model.get_submodule(ALBERT_LAYER)
    hidden = layer.get_submodule("attention.hidden_quantizer")
    used: list[float] = []
    hidden.register_forward_hook(lambda module, *_: used.append(module.scale().item()))
    for _ in range(2):
        model(**make_batch())
    assert isinstance(hidden, FakeQuantizer)
    assert used == scale_from_amax(hidden.amax, "float16").tolist() * 2
    assert len(set(used)) == 3


def test_the_shared_weight_has_one_range() -> None:
    quantizers = dict(named_quantizers(make_wrapped("albert")))
    ranges = {name.rsplit(".", 1)[1]: len(quantizer.amax) for name, quantizer in quantizers.items()}
    assert {slot for slot, count in ranges.items() if count == 1} == {"weight_quantizer"}
    assert {count for slot, count in ranges.items() if slot != "weight_quantizer"} == {3}


@pytest.mark.parametrize(("layers", "groups"), [(3, 2), (4, 2), (6, 3), (5, 5), (4, 3)])
def test_groups_run_when_upstream_runs_them(layers: int, groups: int) -> None:
    model = tiny_albert(num_hidden_layers=layers, num_hidden_groups=groups)
    ran: list[int] = []
    for number, group in enumerate(model.albert.encoder.albert_layer_groups):
        group.register_forward_hook(lambda *_, number=number: ran.append(number))
    model(**make_batch())
    schedule = group_schedule(layers, groups)
    assert [group for group, _ in schedule] == ran
    assert sorted(schedule) == [(group, depth) for group in range(groups) for depth in range(ran.count(group))]


@pytest.mark.parametrize("inner", [1, 2])
def test_every_group_has_its_own_depths(inner: int) -> None:
    model = tiny_albert(num_hidden_layers=3, num_hidden_groups=2, inner_group_num=inner)
    wrap(model)
    give_ranges(model)
    depths: dict[str, list[int]] = {}
    for name, layer in find_family("albert").layers(model):
        first, *_ = depth_quantizers(layer)
        runs = depths.setdefault(name.removeprefix("albert.encoder.albert_layer_groups."), [])
        first.register_forward_hook(lambda module, *_, runs=runs: runs.append(module.depth))
        assert {len(quantizer.amax) for quantizer in depth_quantizers(layer)} == {len(first.amax)}
    model(**make_batch())
    assert depths == {f"{group}.albert_layers.{i}": [[0, 1], [0]][group] for group in (0, 1) for i in range(inner)}
