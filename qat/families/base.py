"""What a family tells the wrapper: its classes, and which tensor of a layer is read by whom."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from qat.errors import CheckpointError, suggest
from qat.layers import SLOTS, QuantConv1d, QuantLinear
from qat.pruned_heads import HeadPlan
from qat.recipe import Role
from qat.relative_positions import DISTANCES, RelativePositions
from qat.residual_stream import StreamTensor
from qat.spec import RangeSource, Tokens


@dataclass(frozen=True, slots=True)
class Reader:
    """Somebody who reads a tensor: a module's path and the role the tensor has for it."""

    module: str
    role: Role


@dataclass(frozen=True, slots=True)
class Point:
    """A slot that can hold a tensor's quantizer, and the readers it then serves."""

    owner: str
    slot: str
    readers: tuple[Reader, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Activation:
    """One tensor of a layer: every point at which it can be quantized.

    Attributes:
        points: the alternatives; together they must be able to serve every reader.
        depths: how often the layer that holds it runs with one set of weights.
        token_axis: where its tokens lie.
        tokens: whose they are.
        range_source: ``constant`` where the range is known to be [0, 1].
    """

    points: tuple[Point, ...]
    depths: int = 1
    token_axis: int = 1
    tokens: Tokens = "own"
    range_source: RangeSource = "calibrated"

    @property
    def readers(self) -> tuple[Reader, ...]:
        """Everybody who reads the tensor, once each, in order."""
        return tuple(dict.fromkeys(reader for point in self.points for reader in point.readers))


@dataclass(frozen=True, kw_only=True, slots=True)
class FloatPart:
    """A product of a layer that no recipe quantizes: the module that computes it, what it is, and why."""

    module: str
    kind: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerPlan:
    """The quantizable tensors of one layer: its activations, and its weights in groups that one GEMM can serve.

    ``float_parts`` are the products that stay float whatever a recipe says.
    """

    activations: tuple[Activation, ...]
    weights: tuple[tuple[str, ...], ...]
    float_parts: tuple[FloatPart, ...] = ()


def longest_positions(config: PreTrainedConfig) -> int:
    """A token for every position a configuration has."""
    return int(config.max_position_embeddings)


@dataclass(frozen=True, kw_only=True)
class Family:
    """A model family: how its layers are taken over and what lies in them.

    Attributes:
        model_type: the ``model_type`` of its configurations.
        layer: the float class of one encoder layer.
        layer_pattern: a regular expression of such a layer's path, found in the names of exported nodes as well.
        swaps: float class to quantized class, for modules inside a layer.
        outer_swaps: the same for inner modules around the layers (never the PreTrainedModel).
        slots: the slots each quantized class gains.
        plan: the plan of one layer, from its path, itself and its model.
        shared: the tensors that several layers read, from the layers' paths and their model.
        feed_forward: the paths of a layer's two feed-forward Linears, from the layer's path; None where they need not
            be Linears.
        stream: the tensors of the residual stream that can have units of their own, from the layers' paths and their
            model; the last layer's output is none of them.
        order: the layers' paths in the order they run, a shared one several times, from their paths and the
            configuration.
        decodes: whether its layers can be a causal decoder's, keys and values kept, positions counted from 0.
        relative: float attention class to the one with relative positions, empty where the family never had them.
        heads: where the heads of a layer are; None where they cannot be taken out.
        attention_output: whether ``output_attentions`` gives probabilities, or scores before the softmax.
        longest: the most tokens a row can have, from the configuration.
        neurons: what configurations call the width of the feed-forward blocks.
    """

    model_type: str
    layer: type[nn.Module]
    layer_pattern: str
    swaps: Mapping[type[nn.Module], type[nn.Module]]
    slots: Mapping[type[nn.Module], tuple[str, ...]]
    plan: Callable[[str, nn.Module, PreTrainedModel], LayerPlan]
    stream: Callable[[Sequence[str], PreTrainedModel], tuple[StreamTensor, ...]]
    shared: Callable[[Sequence[str], PreTrainedModel], tuple[Activation, ...]] = lambda names, model: ()
    feed_forward: Callable[[str], tuple[str, str]] | None = None
    outer_swaps: Mapping[type[nn.Module], type[nn.Module]] = field(default_factory=dict)
    relative: Mapping[type[nn.Module], type[RelativePositions]] = field(default_factory=dict)
    heads: HeadPlan | None = None
    order: Callable[[Sequence[str], PreTrainedConfig], Sequence[str]] = lambda names, config: names
    decodes: bool = False
    attention_output: Literal["probabilities", "scores"] = "probabilities"
    longest: Callable[[PreTrainedConfig], int] = longest_positions
    neurons: str = "intermediate_size"

    def layers(self, model: PreTrainedModel) -> Iterator[tuple[str, nn.Module]]:
        """Every encoder layer of a model with its path."""
        for name, module in model.named_modules():
            if isinstance(module, self.layer):
                yield name, module

    def stream_tensors(self, model: PreTrainedModel) -> tuple[StreamTensor, ...]:
        """The tensors of a model's residual stream, in order."""
        names = [name for name, _ in self.layers(model)]
        return self.stream(names, model) if names else ()

    def all_slots(self) -> dict[type[nn.Module], tuple[str, ...]]:
        """The slots of the family's classes and of the layers every family uses."""
        return {QuantLinear: SLOTS, QuantConv1d: SLOTS, **self.slots}


_FAMILIES: dict[str, Family] = {}


def register_family(family: Family) -> Family:
    """Makes a family known under its ``model_type``; a second one of that name is an error."""
    if family.model_type in _FAMILIES:
        raise ValueError(f"family '{family.model_type}' is registered twice")
    _FAMILIES[family.model_type] = family
    return family


def find_family(model_type: str) -> Family:
    """The family of that ``model_type``.

    Raises:
        CheckpointError: no such family.
    """
    if model_type not in _FAMILIES:
        raise CheckpointError(f"model family '{model_type}' is not supported: {suggest(model_type, _FAMILIES)}")
    return _FAMILIES[model_type]


def longest_row(config: PreTrainedConfig) -> int:
    """The most tokens a row of a model can have."""
    return find_family(config.model_type).longest(config)


def list_families() -> list[Family]:
    """Every family, by its ``model_type``."""
    return [_FAMILIES[name] for name in sorted(_FAMILIES)]


def in_encoder_layer(path: str) -> bool:
    """Whether a path, of a module or of an exported node, lies inside an encoder layer of some family.

    >>> in_encoder_layer("bert.encoder.layer.3.output.dense/MatMul"), in_encoder_layer("bert.pooler.dense/Gemm")
    (True, False)
    """
    return any(re.search(family.layer_pattern, path) for family in _FAMILIES.values())


def hidden_input(attention: str, inner: str, projections: tuple[str, ...]) -> Activation:
    """The input of a BERT-like attention block: read by the projections of ``inner`` and by the block's residual."""
    shared = len(projections) > 1
    readers = tuple(Reader(path, "input") for path in projections)
    residual = Reader(f"{attention}.output", "residual")
    return Activation(
        points=(
            Point(attention, "hidden_quantizer", (*readers, residual)),
            *([Point(inner, "hidden_quantizer", readers)] if shared else []),
            *(Point(reader.module, "input_quantizer", (reader,)) for reader in readers),
            Point(residual.module, "residual_quantizer", (residual,)),
        )
    )


def feed_forward_input(layer: str, first: str, output: str) -> Activation:
    """The input of a BERT-like feed-forward block: read by its ``first`` GEMM and by the residual of ``output``."""
    reader, residual = Reader(first, "input"), Reader(output, "residual")
    return Activation(
        points=(
            Point(layer, "ffn_quantizer", (reader, residual)),
            Point(first, "input_quantizer", (reader,)),
            Point(output, "residual_quantizer", (residual,)),
        )
    )


def distance_parts(path: str, attention: nn.Module) -> tuple[FloatPart, ...]:
    """The products of relative positions, where an attention module has them."""
    if not isinstance(attention, RelativePositions):
        return ()
    return (FloatPart(module=path, kind="relative positions", reason=DISTANCES),)


def linear_input(module: str, *, depths: int = 1, token_axis: int = 1) -> Activation:
    """The input of a Linear or convolution that nobody else reads."""
    point = Point(module, "input_quantizer", (Reader(module, "input"),))
    return Activation(points=(point,), depths=depths, token_axis=token_axis)


def linear_output(module: str, *, depths: int = 1, token_axis: int = 1) -> Activation:
    """The output of a Linear or convolution that goes straight into a residual add."""
    point = Point(module, "output_quantizer", (Reader(module, "add_local"),))
    return Activation(points=(point,), depths=depths, token_axis=token_axis)


def linear_product(
    module: str, role: Literal["preactivation", "product"], *, depths: int = 1, token_axis: int = 1
) -> Activation:
    """What the product of a Linear or convolution gives before its bias is added.

    It is a ``preactivation`` where an activation function follows, which forgives the clipping of what it flattens.
    """
    point = Point(module, "product_quantizer", (Reader(module, role),))
    return Activation(points=(point,), depths=depths, token_axis=token_axis)


def attention_four(module: str, *, depths: int = 1, keys: Tokens = "own") -> tuple[Activation, ...]:
    """The q, k, v and probabilities of an attention module: ``(batch, heads, tokens, ...)``, quantized all or none.

    ``keys`` says whose tokens the keys and values are of.
    """
    readers = (Reader(module, "attention"),)
    owners: dict[str, Tokens] = {"query_quantizer": "own", "key_quantizer": keys, "value_quantizer": keys}
    measured = tuple(
        Activation(points=(Point(module, slot, readers),), depths=depths, token_axis=2, tokens=tokens)
        for slot, tokens in owners.items()
    )
    probs = Activation(
        points=(Point(module, "probs_quantizer", readers),), depths=depths, token_axis=2, range_source="constant"
    )
    return (*measured, probs)


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A part of a layer, as the residual stream sees it: who reads its input, what is added to it, and the norm behind.

    ``optional`` are blocks before it that need not run: what is on either side of them shares its units.
    """

    readers: tuple[str, ...]
    addend: str
    norm: str
    optional: tuple["Block", ...] = ()


def find_first_writer(root: str, model: PreTrainedModel) -> str:
    """What writes the stream first: the embeddings' normalization, or their projection where they are narrower."""
    projection = f"{root}embeddings_project"
    return projection if projection in dict(model.named_modules()) else f"{root}embeddings.LayerNorm"


def chain_stream(first: str, blocks: Sequence[Block]) -> tuple[StreamTensor, ...]:
    """The stream through blocks that run one after the other, ``first`` writing what the first of them reads."""
    writers = [first, *(block.norm for block in blocks[:-1])]
    return tuple(
        StreamTensor(
            writers=(writer, *(each.norm for each in block.optional)),
            readers=tuple(path for each in (*block.optional, block) for path in each.readers),
            addends=tuple(each.addend for each in (*block.optional, block)),
            gains=tuple(each.norm for each in (*block.optional, block)),
        )
        for writer, block in zip(writers, blocks, strict=True)
    )
