"""BERT: what QDQBERT was, on transformers' own modules; and the families whose layers are BERT's."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.bert.modeling_bert import (
    BertAttention,
    BertLayer,
    BertOutput,
    BertSelfAttention,
    BertSelfOutput,
)

from qat.errors import CheckpointError
from qat.families.base import (
    Block,
    Family,
    LayerPlan,
    attention_four,
    chain_stream,
    distance_parts,
    feed_forward_input,
    find_first_writer,
    hidden_input,
    linear_input,
    linear_output,
    linear_product,
    longest_positions,
    register_family,
)
from qat.families.blocks import (
    QuantizesAttention,
    QuantizesFeedForward,
    QuantizesInput,
    QuantizesResidual,
    Slotted,
)
from qat.layers import QuantLinear
from qat.pruned_heads import bert_like_heads
from qat.relative_positions import RelativePositions
from qat.residual_stream import StreamNorm, StreamTensor


class QuantBertSelfAttention(QuantizesAttention, BertSelfAttention):
    """Self-attention."""


class RelativeBertSelfAttention(RelativePositions, BertSelfAttention):
    """The float module with relative positions."""

    scaled_distances = True


class QuantRelativeBertSelfAttention(RelativePositions, QuantBertSelfAttention):
    """The same, quantized; distances stay float."""

    scaled_distances = True


class QuantBertAttention(QuantizesInput, BertAttention):
    """The attention block."""


class QuantBertSelfOutput(QuantizesResidual, BertSelfOutput):
    """The first residual add."""


class QuantBertOutput(QuantizesResidual, BertOutput):
    """The second residual add."""


class QuantBertLayer(QuantizesFeedForward, BertLayer):
    """The layer."""


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
    """The stream from the embeddings, or their projection, to the last layer's second normalization."""
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
    return chain_stream(find_first_writer(layers[0].rsplit("encoder.", 1)[0], model), blocks)


def bert_family(
    model_type: str,
    layer: type[nn.Module],
    blocks: Mapping[type[nn.Module], type[Slotted]],
    longest: Callable[[PreTrainedConfig], int] = longest_positions,
) -> Family:
    """A family whose layers are BERT's but for the names of their classes.

    Args:
        model_type: of its configurations.
        layer: the float class of a layer.
        blocks: float class to quantized class, that of the layer among them.
        longest: as in ``Family``.
    """
    return Family(
        model_type=model_type,
        layer=layer,
        layer_pattern=r"\bencoder\.layer\.\d+\b",
        swaps={nn.Linear: QuantLinear, nn.LayerNorm: StreamNorm, **blocks},
        slots={block: block.slots for block in blocks.values()},
        plan=plan_layer,
        stream=plan_stream,
        heads=bert_like_heads("attention.self", "attention.output.dense"),
        feed_forward=lambda name: (f"{name}.intermediate.dense", f"{name}.output.dense"),
        longest=longest,
    )


BERT = register_family(
    replace(
        bert_family(
            "bert",
            BertLayer,
            {
                BertSelfAttention: QuantBertSelfAttention,
                RelativeBertSelfAttention: QuantRelativeBertSelfAttention,
                BertAttention: QuantBertAttention,
                BertSelfOutput: QuantBertSelfOutput,
                BertOutput: QuantBertOutput,
                BertLayer: QuantBertLayer,
            },
        ),
        relative={BertSelfAttention: RelativeBertSelfAttention},
    )
)
