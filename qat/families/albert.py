"""ALBERT: one layer run many times; its weights are shared, its activation ranges are one a depth."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
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
    linear_input,
    linear_output,
    linear_product,
    register_family,
)
from qat.layers import QuantLinear
from qat.quantizer import FakeQuantizer, Slot


class QuantAlbertAttention(QuantAttention, AlbertAttention):
    """The attention block: its input is quantized once for q, k, v and the residual, its output once for the FFN's."""

    hidden_quantizer: Slot
    ffn_quantizer: Slot

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """As the float module's."""
        require_quantized_attention(self.config._attn_implementation)
        output, probs = super().forward(self.hidden_quantizer(hidden_states), *args, **kwargs)
        return self.ffn_quantizer(output), probs


class QuantAlbertLayer(GradientCheckpointingLayer, AlbertLayer):
    """The shared layer at one depth; recomputed by gradient checkpointing with the same depth."""

    def forward(self, hidden_states: Tensor, *args: Any, depth: int = 0, **kwargs: Any) -> Tensor:
        """As the float module's, with the ranges of pass ``depth`` (its argument, so that recomputing repeats it)."""
        for quantizer in depth_quantizers(self):
            quantizer.depth = depth
        return super().forward(hidden_states, *args, **kwargs)


class QuantAlbertTransformer(AlbertTransformer):
    """The loop over depths; upstream's hands no depth down, so this one replaces it."""

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> BaseModelOutput:
        """As the float module's, each group told how often it has run before."""
        hidden_states = self.embedding_hidden_mapping_in(hidden_states)
        for group, depth in group_schedule(self.config.num_hidden_layers, self.config.num_hidden_groups):
            hidden_states = self.albert_layer_groups[group](hidden_states, attention_mask, depth=depth, **kwargs)
        return BaseModelOutput(last_hidden_state=hidden_states)


def depth_quantizers(layer: nn.Module) -> Iterable[FakeQuantizer]:
    """The activation quantizers of a layer: all that hold one range a depth."""
    for module in layer.modules():
        if isinstance(module, FakeQuantizer) and module.spec.range_source != "weight":
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
    qkv = tuple(f"{attention}.{part}" for part in ("query", "key", "value"))
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
    )


ALBERT = register_family(
    Family(
        model_type="albert",
        layer=AlbertLayer,
        layer_pattern=r"\balbert_layer_groups\.\d+\.albert_layers\.\d+\b",
        swaps={nn.Linear: QuantLinear, AlbertAttention: QuantAlbertAttention, AlbertLayer: QuantAlbertLayer},
        outer_swaps={AlbertTransformer: QuantAlbertTransformer},
        slots={
            QuantAlbertAttention: (
                "hidden_quantizer",
                "query_quantizer",
                "key_quantizer",
                "value_quantizer",
                "probs_quantizer",
                "ffn_quantizer",
            ),
        },
        plan=plan_layer,
        feed_forward=lambda name: (f"{name}.ffn", f"{name}.ffn_output"),
    )
)
