"""Wrapping: a float model's inner modules become quantized ones, in place, and the way back."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel

from qat.attention import ATTENTION
from qat.errors import RecipeError
from qat.families import Family, find_family
from qat.families.base import FloatPart, LayerPlan, Reader
from qat.layers import QuantizedLayer
from qat.placement import Decision, RuleBook, choose_points
from qat.quantizer import FakeQuantizer, Unquantized
from qat.recipe import PRODUCTS, Recipe
from qat.residual_stream import Gain, reset_gain, restore_stream
from qat.spec import Granularity, PerChannel, PerTensor, QuantSpec

OUTSIDE = "outside the encoder's layers"
FLOAT_GEMM = "its weight is float: no integer GEMM gives it"


@dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """One row of the wrapping report: a module, what of it could be quantized, whether it is, and why."""

    name: str
    kind: str
    quantized: bool
    reason: str


@dataclass(frozen=True, slots=True)
class WrapReport:
    """What wrapping did to every tensor a recipe can speak of, and to every other layer with weights."""

    rows: tuple[Coverage, ...]

    @property
    def quantized(self) -> int:
        """How many readers and weights are quantized."""
        return sum(row.quantized for row in self.rows)


def convert_model(model: PreTrainedModel, recipe: Recipe) -> WrapReport:
    """The report of taking ``model`` over in place; its quantizers have no ranges yet.

    Raises:
        CheckpointError: an unknown family.
        RecipeError: a rule that matches nothing, or a placement the family has no slot for.
    """
    if is_wrapped(model):
        raise RecipeError("the model is quantized already: qdq.unwrap it first to use another recipe")
    family = find_family(model.config.model_type)
    layers = list(family.layers(model))
    shared = family.shared([name for name, _ in layers], model)
    plans = [*(family.plan(name, layer, model) for name, layer in layers), LayerPlan(activations=shared, weights=())]
    rules = RuleBook(recipe, model.base_model_prefix)
    decisions = _keep_products([rules.decide(reader) for plan in plans for reader in _readers(plan)])
    rules.require_all_matched(decision.reader for decision in decisions)
    quantized = frozenset(decision.reader for decision in decisions if decision.quantized)
    points = [
        (activation, point)
        for plan in plans
        for activation in plan.activations
        for point in choose_points(activation, quantized & frozenset(activation.readers), recipe)
    ]

    _swap_classes(model, layers, family)
    for activation, point in points:
        spec = QuantSpec(
            scale_type=recipe.scale_type,
            range_source=activation.range_source,
            token_axis=activation.token_axis,
            tokens=activation.tokens,
        )
        _fill_slot(model, point.owner, point.slot, spec, activation.depths)
    for plan in plans:
        for group in plan.weights:
            _fill_weights(model, [path for path in group if Reader(path, "weight") in quantized], recipe)
    _set_attention(model, ATTENTION)
    _set_training_flags(model, family)
    float_parts = [part for plan in plans for part in plan.float_parts]
    return WrapReport(rows=tuple(_coverage(model, layers, decisions, float_parts)))


def restore_model(model: PreTrainedModel, implementation: str) -> None:
    """``model`` as it was before wrapping, its weights as they are now, with the attention ``implementation``."""
    family = find_family(model.config.model_type)
    float_class = {quant: plain for plain, quant in {**family.swaps, **family.outer_swaps}.items()}
    slots = family.all_slots()
    restore_stream(model, family.stream_tensors(model))
    for module in list(model.modules()):
        if type(module) in float_class:
            for slot in slots.get(type(module), ()):
                delattr(module, slot)
            if isinstance(module, QuantizedLayer):
                del module.partners
            if isinstance(module, Gain):
                del module.gain
            module.__class__ = float_class[type(module)]
    _set_attention(model, implementation)
    _restore_training_flags(model)


def is_wrapped(model: nn.Module) -> bool:
    """Whether the model holds quantized layers."""
    return any(isinstance(module, QuantizedLayer) for module in model.modules())


def _readers(plan: LayerPlan) -> list[Reader]:
    weights = [Reader(path, "weight") for group in plan.weights for path in group]
    return list(dict.fromkeys([*weights, *(reader for each in plan.activations for reader in each.readers)]))


def _keep_products(decisions: list[Decision]) -> list[Decision]:
    """The decisions, with the products of float weights left float."""
    integer = {each.reader.module for each in decisions if each.quantized and each.reader.role == "weight"}
    return [
        replace(each, quantized=False, reason=FLOAT_GEMM)
        if each.quantized and each.reader.role in PRODUCTS and each.reader.module not in integer
        else each
        for each in decisions
    ]


def _swap_classes(model: PreTrainedModel, layers: list[tuple[str, nn.Module]], family: Family) -> None:
    slots = family.all_slots()
    inside = [module for _, layer in layers for module in layer.modules() if type(module) in family.swaps]
    outside = [module for module in model.modules() if type(module) in family.outer_swaps]
    classes = {**family.swaps, **family.outer_swaps}
    for module in (*inside, *outside):
        module.__class__ = classes[type(module)]
        for slot in slots.get(type(module), ()):
            setattr(module, slot, Unquantized())
        if isinstance(module, QuantizedLayer):
            module.partners = ()
        if isinstance(module, Gain):
            reset_gain(module, model.config.hidden_size)


def _fill_slot(model: PreTrainedModel, owner: str, slot: str, spec: QuantSpec, ranges: int) -> None:
    quantizer = FakeQuantizer(spec, ranges=ranges, name=f"{owner}.{slot}")
    setattr(model.get_submodule(owner), slot, quantizer.to(model.device))


def _fill_weights(model: PreTrainedModel, group: list[str], recipe: Recipe) -> None:
    members = [cast(QuantizedLayer, model.get_submodule(path)) for path in group]
    for path, member in zip(group, members, strict=True):
        granularity: Granularity = PerTensor()
        channels = 1
        if recipe.weights == "per_channel":
            granularity, channels = PerChannel(member.channel_axis), member.weight.shape[member.channel_axis]
        spec = QuantSpec(
            granularity=granularity,
            scale_type=recipe.scale_type,
            range_source="weight" if recipe.weight_ranges == "follow" else "stored",
            bits=recipe.weight_bits,
        )
        _fill_slot(model, path, "weight_quantizer", spec, channels)
        if recipe.weights == "per_tensor" and recipe.sharing == "tensor" and recipe.weight_ranges == "follow":
            member.partners = tuple(other for other in members if other is not member)


def _set_attention(model: PreTrainedModel, implementation: str) -> None:
    for module in model.modules():
        config: Any = getattr(module, "config", None)
        if config is not None:
            config._attn_implementation = implementation


def _set_training_flags(model: PreTrainedModel, family: Family) -> None:
    names = {plain.__name__: quant.__name__ for plain, quant in family.swaps.items()}
    for module in _pretrained_modules(model):
        # not what else upstream names: FSDP2 in accelerate makes the word embeddings a unit, which no other may hold
        module._no_split_modules = {names[family.layer.__name__]}
        module.supports_gradient_checkpointing = True


def _restore_training_flags(model: PreTrainedModel) -> None:
    for module in _pretrained_modules(model):
        named = (type(inner)._no_split_modules or () for inner in _pretrained_modules(module))
        module._no_split_modules = {name for names in named for name in names}
        vars(module).pop("supports_gradient_checkpointing", None)


def _pretrained_modules(model: nn.Module) -> Iterator[PreTrainedModel]:
    return (module for module in model.modules() if isinstance(module, PreTrainedModel))


def _coverage(
    model: PreTrainedModel,
    layers: list[tuple[str, nn.Module]],
    decisions: Iterable[Decision],
    float_parts: Iterable[FloatPart],
) -> Iterable[Coverage]:
    for decision in decisions:
        yield Coverage(
            name=decision.reader.module, kind=decision.reader.role, quantized=decision.quantized, reason=decision.reason
        )
    for part in float_parts:
        yield Coverage(name=part.module, kind=part.kind, quantized=False, reason=part.reason)
    inside = {id(module) for _, layer in layers for module in layer.modules()}
    for name, module in model.named_modules():
        if id(module) not in inside and isinstance(module, nn.Linear | nn.Embedding | nn.LayerNorm | nn.Conv1d):
            yield Coverage(name=name, kind=type(module).__name__, quantized=False, reason=OUTSIDE)
