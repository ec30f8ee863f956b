"""BERT: what QDQBERT was, on transformers' own modules."""

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.bert.modeling_bert import (
    BertAttention,
    BertLayer,
    BertOutput,
    BertSelfAttention,
    BertSelfOutput,
)

from qat.attention import QuantAttention, require_quantized_attention
from qat.errors import CheckpointError
from qat.families.base import (
    Block,
    Family,
    LayerPlan,
    attention_four,
    chain_stream,
    distance_parts,
    feed_forward_input,
    hidden_input,
    linear_input,
    linear_output,
    linear_product,
    register_family,
)
from qat.layers import QuantLinear
from qat.pruned_heads import bert_like_heads
from qat.quantizer import Slot
from qat.relative_positions import RelativePositions
from qat.residual_stream import StreamNorm, StreamTensor


class QuantBertSelfAttention(QuantAttention, BertSelfAttention):
    """Self-attention that quantizes q, k, v and the probabilities, and its input where only q, k and v read it."""

    hidden_quantizer: Slot

    # upstream's annotation says one tensor, it returns two
    def forward(  # type: ignore[override]
        self, hidden_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """As the float module's."""
        require_quantized_attention(self.config._attn_implementation)
        return cast("tuple[Tensor, Tensor]", super().forward(self.hidden_quantizer(hidden_states), *args, **kwargs))


class RelativeBertSelfAttention(RelativePositions, BertSelfAttention):
    """The float module with relative positions."""

    scaled_distances = True


class QuantRelativeBertSelfAttention(RelativePositions, QuantBertSelfAttention):
    """The same, quantized; distances stay float."""

    scaled_distances = True


class QuantBertAttention(BertAttention):
    """The attention block; quantizes its input once for q, k, v and the residual."""

    hidden_quantizer: Slot

    def forward(  # type: ignore[override]
        self, hidden_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """As the float module's."""
        return cast("tuple[Tensor, Tensor]", super().forward(self.hidden_quantizer(hidden_states), *args, **kwargs))


class QuantBertSelfOutput(BertSelfOutput):
    """The first residual add, with a quantizer of its own for the residual where nothing is shared."""

    residual_quantizer: Slot

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        """As the float module's."""
        return super().forward(hidden_states, self.residual_quantizer(input_tensor))


class QuantBertOutput(BertOutput):
    """The second residual add, likewise."""

    residual_quantizer: Slot

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        """As the float module's."""
        return super().forward(hidden_states, self.residual_quantizer(input_tensor))


class QuantBertLayer(BertLayer):
    """The layer; quantizes the FFN's input once for its first GEMM and the residual."""

    ffn_quantizer: Slot

    def feed_forward_chunk(self, attention_output: Tensor) -> Tensor:
        """As the float module's."""
        return cast(Tensor, super().feed_forward_chunk(self.ffn_quantizer(attention_output)))  # type: ignore[no-untyped-call]


def plan_layer(name: str, layer: nn.Module, model: PreTrainedModel) -> LayerPlan:
    """The tensors of one BertLayer.

    Raises:
        CheckpointError: the layer attends to another model's states as well.
    """
    if model.config.add_cross_attention:
        raise CheckpointError(
            "a BERT with cross-attention is not supported (add_cross_attention is true in its config.json): "
            "quantize an encoder, or a decoder without it"
        )
    attention, ffn, out = f"{name}.attention", f"{name}.intermediate.dense", f"{name}.output"
    qkv = tuple(f"{attention}.self.{part}" for part in ("query", "key", "value"))
    denses = (f"{attention}.output.dense", f"{out}.dense")
    return LayerPlan(
        activations=(
            hidden_input(attention, f"{attention}.self", qkv),
            *attention_four(f"{attention}.self"),
            linear_input(denses[0]),
            linear_product(denses[0], "product"),
            linear_output(denses[0]),
            feed_forward_input(name, ffn, out),
            linear_product(ffn, "preactivation"),
            linear_input(denses[1]),
            linear_product(denses[1], "product"),
            linear_output(denses[1]),
        ),
        weights=(qkv, (denses[0],), (ffn,), (denses[1],)),
        float_parts=distance_parts(f"{attention}.self", layer.get_submodule("attention.self")),
    )


def plan_stream(layers: Sequence[str], model: PreTrainedModel) -> tuple[StreamTensor, ...]:
    """The stream from the embeddings to the last layer's second normalization."""
    blocks = []
    for name in layers:
        attention = f"{name}.attention"
        qkv = tuple(f"{attention}.self.{part}" for part in ("query", "key", "value"))
        after = f"{attention}.output"
        blocks += [
            Block(readers=qkv, addend=f"{after}.dense", norm=f"{after}.LayerNorm"),
            Block(
                readers=(f"{name}.intermediate.dense",),
                addend=f"{name}.output.dense",
                norm=f"{name}.output.LayerNorm",
            ),
        ]
    return chain_stream(f"{layers[0].rsplit('encoder.', 1)[0]}embeddings.LayerNorm", blocks)


_ATTENTION_SLOTS = (
    "hidden_quantizer",
    "query_quantizer",
    "key_quantizer",
    "value_quantizer",
    "probs_quantizer",
)

BERT = register_family(
    Family(
        model_type="bert",
        layer=BertLayer,
        layer_pattern=r"\bencoder\.layer\.\d+\b",
        swaps={
            nn.Linear: QuantLinear,
            nn.LayerNorm: StreamNorm,
            BertSelfAttention: QuantBertSelfAttention,
            RelativeBertSelfAttention: QuantRelativeBertSelfAttention,
            BertAttention: QuantBertAttention,
            BertSelfOutput: QuantBertSelfOutput,
            BertOutput: QuantBertOutput,
            BertLayer: QuantBertLayer,
        },
        slots={
            QuantBertSelfAttention: _ATTENTION_SLOTS,
            QuantRelativeBertSelfAttention: _ATTENTION_SLOTS,
            QuantBertAttention: ("hidden_quantizer",),
            QuantBertSelfOutput: ("residual_quantizer",),
            QuantBertOutput: ("residual_quantizer",),
            QuantBertLayer: ("ffn_quantizer",),
        },
        relative={BertSelfAttention: RelativeBertSelfAttention},
        heads=bert_like_heads("attention.self", "attention.output.dense"),
        plan=plan_layer,
        stream=plan_stream,
        feed_forward=lambda name: (f"{name}.intermediate.dense", f"{name}.output.dense"),
    )
)
