"""ALBERT: one layer run many times; its weights are shared, its activation ranges are one a depth."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.albert.modeling_albert import (
    AlbertAttention,
    AlbertLayer,
    AlbertTransformer,
)

from qat.attention import QuantAttention, require_quantized_attention
from qat.families.base import (
    Activation,
    Family,
    LayerPlan,
    Point,
    Reader,
    attention_four,
    distance_parts,
    linear_input,
    linear_output,
    linear_product,
    register_family,
)
from qat.layers import QuantLinear, holding_weights
from qat.pruned_heads import bert_like_heads
from qat.quantizer import FakeQuantizer, Slot
from qat.relative_positions import RelativePositions
from qat.residual_stream import Gain, StreamNorm, StreamTensor


class QuantAlbertAttention(QuantAttention, AlbertAttention):
    """The attention block: its input is quantized once for q, k, v and the residual, its output once for the FFN's."""

    hidden_quantizer: Slot
    ffn_quantizer: Slot

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """As the float module's."""
        require_quantized_attention(self.config._attn_implementation)
        output, probs = super().forward(self.hidden_quantizer(hidden_states), *args, **kwargs)
        return self.ffn_quantizer(output), probs


class RelativeAlbertAttention(RelativePositions, AlbertAttention):
    """The float module with relative positions."""

    scaled_distances = False


class QuantRelativeAlbertAttention(RelativePositions, QuantAlbertAttention):
    """The same, quantized; distances stay float."""

    scaled_distances = False


class QuantAlbertLayer(GradientCheckpointingLayer, AlbertLayer):
    """The shared layer at one depth; recomputed by gradient checkpointing with the same depth."""

    def forward(self, hidden_states: Tensor, *args: Any, depth: int = 0, **kwargs: Any) -> Tensor:
        """As the float module's, with the ranges of pass ``depth`` (its argument, so that recomputing repeats it)."""
        for quantizer in depth_quantizers(self):
            quantizer.depth = depth
        return super().forward(hidden_states, *args, **kwargs)


class QuantAlbertTransformer(Gain, AlbertTransformer):
    """The loop over depths; upstream's hands no depth down, so this one replaces it.

    What goes round the loop has one set of units, which its gain turns back at the end.
    """

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> BaseModelOutput:
        """As the float module's, each group told how often it has run before."""
        hidden_states = self.embedding_hidden_mapping_in(hidden_states)
        with holding_weights(self):
            for group, depth in group_schedule(self.config.num_hidden_layers, self.config.num_hidden_groups):
                hidden_states = self.albert_layer_groups[group](hidden_states, attention_mask, depth=depth, **kwargs)
        return BaseModelOutput(last_hidden_state=self.apply_gain(hidden_states))


def depth_quantizers(layer: nn.Module) -> Iterable[FakeQuantizer]:
    """The activation quantizers of a layer: all that hold one range a depth."""
    for module in layer.modules():
        if isinstance(module, FakeQuantizer) and module.spec.range_source not in ("weight", "stored"):
            yield module


def group_schedule(num_layers: int, num_groups: int) -> list[tuple[int, int]]:
    """For every pass, the group that runs and how often it has run before.

    >>> group_schedule(4, 2)
    [(0, 0), (0, 1), (1, 0), (1, 1)]
    """
    groups = [int(i / (num_layers / num_groups)) for i in range(num_layers)]
    return [(group, groups[:i].count(group)) for i, group in enumerate(groups)]


def plan_layer(name: str, layer: nn.Module, model: PreTrainedModel) -> LayerPlan:
    """The tensors of one AlbertLayer, every activation with one range for each of its group's passes."""
    schedule = group_schedule(model.config.num_hidden_layers, model.config.num_hidden_groups)
    group = int(name.split(".albert_layers.")[0].rsplit(".", 1)[1])
    depths = sum(1 for each, _ in schedule if each == group)
    attention, ffn, ffn_output = f"{name}.attention", f"{name}.ffn", f"{name}.ffn_output"
    qkv = _projections(name)
    projections = tuple(Reader(path, "input") for path in qkv)
    hidden = Activation(
        points=(
            Point(attention, "hidden_quantizer", (*projections, Reader(attention, "residual"))),
            *(Point(reader.module, "input_quantizer", (reader,)) for reader in projections),
        ),
        depths=depths,
    )
    ffn_input = Activation(
        points=(
            Point(attention, "ffn_quantizer", (Reader(ffn, "input"), Reader(name, "residual"))),
            Point(ffn, "input_quantizer", (Reader(ffn, "input"),)),
        ),
        depths=depths,
    )
    return LayerPlan(
        activations=(
            hidden,
            *attention_four(attention, depths=depths),
            linear_input(f"{attention}.dense", depths=depths),
            linear_product(f"{attention}.dense", "product", depths=depths),
            linear_output(f"{attention}.dense", depths=depths),
            ffn_input,
            linear_product(ffn, "preactivation", depths=depths),
            linear_input(ffn_output, depths=depths),
            linear_product(ffn_output, "product", depths=depths),
            linear_output(ffn_output, depths=depths),
        ),
        weights=(qkv, (f"{attention}.dense",), (ffn,), (ffn_output,)),
        float_parts=distance_parts(attention, layer.get_submodule("attention")),
    )


def plan_stream(layers: Sequence[str], model: PreTrainedModel) -> tuple[StreamTensor, ...]:
    """The tensor that goes round the loop, and those inside the groups' layers."""
    groups: dict[str, list[str]] = {}
    for name in layers:
        groups.setdefault(name.rsplit(".albert_layers.", 1)[0], []).append(name)
    encoder = layers[0].rsplit(".albert_layer_groups.", 1)[0]
    firsts, lasts = zip(*((inner[0], inner[-1]) for inner in groups.values()), strict=True)
    loop = StreamTensor(
        writers=(f"{encoder}.embedding_hidden_mapping_in", *(f"{name}.full_layer_layer_norm" for name in lasts)),
        readers=tuple(path for name in firsts for path in _projections(name)),
        addends=tuple(f"{name}.attention.dense" for name in firsts),
        gains=(*(f"{name}.attention.LayerNorm" for name in firsts), encoder),
    )
    between = (
        StreamTensor(
            writers=(f"{before}.full_layer_layer_norm",),
            readers=_projections(name),
            addends=(f"{name}.attention.dense",),
            gains=(f"{name}.attention.LayerNorm",),
        )
        for inner in groups.values()
        for before, name in pairwise(inner)
    )
    halves = (
        StreamTensor(
            writers=(f"{name}.attention.LayerNorm",),
            readers=(f"{name}.ffn",),
            addends=(f"{name}.ffn_output",),
            gains=(f"{name}.full_layer_layer_norm",),
        )
        for name in layers
    )
    return (loop, *between, *halves)


def _projections(layer: str) -> tuple[str, ...]:
    return tuple(f"{layer}.attention.{part}" for part in ("query", "key", "value"))


def order_layers(layers: Sequence[str], config: PreTrainedConfig) -> list[str]:
    """The inner layers of the group that serves each depth, depth after depth."""
    groups: dict[str, list[str]] = {}
    for name in layers:
        groups.setdefault(name.rsplit(".albert_layers.", 1)[0], []).append(name)
    depths, each = config.num_hidden_layers, list(groups.values())
    return [name for depth in range(depths) for name in each[depth * len(each) // depths]]


_ATTENTION_SLOTS = (
    "hidden_quantizer",
    "query_quantizer",
    "key_quantizer",
    "value_quantizer",
    "probs_quantizer",
    "ffn_quantizer",
)

ALBERT = register_family(
    Family(
        model_type="albert",
        layer=AlbertLayer,
        layer_pattern=r"\balbert_layer_groups\.\d+\.albert_layers\.\d+\b",
        swaps={
            nn.Linear: QuantLinear,
            nn.LayerNorm: StreamNorm,
            AlbertAttention: QuantAlbertAttention,
            RelativeAlbertAttention: QuantRelativeAlbertAttention,
            AlbertLayer: QuantAlbertLayer,
        },
        outer_swaps={AlbertTransformer: QuantAlbertTransformer},
        slots={
            QuantAlbertAttention: _ATTENTION_SLOTS,
            QuantRelativeAlbertAttention: _ATTENTION_SLOTS,
        },
        relative={AlbertAttention: RelativeAlbertAttention},
        heads=bert_like_heads("attention", "attention.dense"),
        plan=plan_layer,
        stream=plan_stream,
        order=order_layers,
        feed_forward=lambda name: (f"{name}.ffn", f"{name}.ffn_output"),
    )
)
