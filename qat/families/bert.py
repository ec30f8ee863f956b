"""BERT: what QDQBERT was, on transformers' own modules; and the families whose layers are BERT's.

BERT's layers can be a decoder's too, with or without cross-attention. A decoder's cache holds keys and values before
their quantizers, which round the whole of them at every step: the same values with a cache and without one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.bert.modeling_bert import (
    BertAttention,
    BertCrossAttention,
    BertEncoder,
    BertLayer,
    BertOutput,
    BertSelfAttention,
    BertSelfOutput,
)

from qat.errors import CheckpointError
from qat.families.base import (
    Activation,
    Block,
    Family,
    LayerPlan,
    attention_four,
    chain_stream,
    distance_parts,
    feed_forward_input,
    find_family,
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
    QuantizesCrossAttention,
    QuantizesFeedForward,
    QuantizesInput,
    QuantizesResidual,
    Slotted,
)
from qat.families.encoder_states import QuantizesEncoderStates, encoder_states
from qat.layers import QuantLinear
from qat.pruned_heads import bert_like_heads
from qat.relative_positions import RelativePositions
from qat.residual_stream import StreamNorm, StreamTensor


class QuantBertSelfAttention(QuantizesAttention, BertSelfAttention):
    """Self-attention."""


class QuantBertCrossAttention(QuantizesCrossAttention, BertCrossAttention):
    """Attention to another model's states."""


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


class QuantBertEncoder(QuantizesEncoderStates, BertEncoder):
    """The stack of layers."""


class QuantBertLayer(QuantizesFeedForward, BertLayer):
    """The layer."""


def plan_layer(name: str, layer: nn.Module, model: PreTrainedModel) -> LayerPlan:
    """The tensors of one BertLayer, but for the states it attends to.

    Raises:
        CheckpointError: it attends to another model's states, which only BERT's own layers do here.
    """
    family, crosses = find_family(model.config.model_type), model.config.add_cross_attention
    if crosses and not family.decodes:
        raise CheckpointError(
            f"a {family.model_type} with cross-attention is not supported (add_cross_attention is true in its "
            "config.json): quantize an encoder, or a decoder without it"
        )
    ffn, out = f"{name}.intermediate.dense", f"{name}.output"
    halves = (plan_attention(f"{name}.attention"), *([plan_cross_attention(_cross(name))] if crosses else []))
    return LayerPlan(
        activations=(
            *(activation for half in halves for activation in half.activations),
            feed_forward_input(name, ffn, out),
            linear_product(ffn, "preactivation"),
            *_plan_dense(f"{out}.dense"),
        ),
        weights=(*(group for half in halves for group in half.weights), (ffn,), (f"{out}.dense",)),
        float_parts=distance_parts(f"{name}.attention.self", layer.get_submodule("attention.self")),
    )


def plan_attention(path: str) -> LayerPlan:
    """The tensors of a block that attends to its own tokens."""
    inner, dense = f"{path}.self", f"{path}.output.dense"
    qkv = tuple(f"{inner}.{part}" for part in ("query", "key", "value"))
    return LayerPlan(
        activations=(hidden_input(path, inner, qkv), *attention_four(inner), *_plan_dense(dense)),
        weights=(qkv, (dense,)),
    )


def plan_cross_attention(path: str) -> LayerPlan:
    """The tensors of a block whose query alone reads its own tokens."""
    inner, dense = f"{path}.self", f"{path}.output.dense"
    query, *others = (f"{inner}.{part}" for part in ("query", "key", "value"))
    return LayerPlan(
        activations=(
            hidden_input(path, inner, (query,)),
            *attention_four(inner, keys="encoder"),
            *_plan_dense(dense),
        ),
        weights=((query,), tuple(others), (dense,)),
    )


def plan_shared(layers: Sequence[str], model: PreTrainedModel) -> tuple[Activation, ...]:
    """The states that every layer attends to."""
    if not (layers and model.config.add_cross_attention):
        return ()
    return (encoder_states(layers[0].rsplit(".layer.", 1)[0], tuple(f"{_cross(name)}.self" for name in layers)),)


def _cross(layer: str) -> str:
    return f"{layer}.crossattention"


def _plan_dense(path: str) -> tuple[Activation, ...]:
    """The tensors of a Linear before a residual add."""
    return (linear_input(path), linear_product(path, "product"), linear_output(path))


def plan_stream(layers: Sequence[str], model: PreTrainedModel) -> tuple[StreamTensor, ...]:
    """The stream from the embeddings, or their projection, to the last layer's last normalization."""
    blocks = []
    for name in layers:
        inner, after = f"{name}.attention.self", f"{name}.attention.output"
        qkv = tuple(f"{inner}.{part}" for part in ("query", "key", "value"))
        cross = _block((f"{_cross(name)}.self.query",), f"{_cross(name)}.output")
        optional = (cross,) if model.config.add_cross_attention else ()
        blocks += [_block(qkv, after), _block((f"{name}.intermediate.dense",), f"{name}.output", optional)]
    return chain_stream(find_first_writer(layers[0].rsplit("encoder.", 1)[0], model), blocks)


def _block(readers: tuple[str, ...], after: str, optional: tuple[Block, ...] = ()) -> Block:
    return Block(readers=readers, addend=f"{after}.dense", norm=f"{after}.LayerNorm", optional=optional)


def bert_family(
    model_type: str,
    layer: type[nn.Module],
    blocks: Mapping[type[nn.Module], type[Slotted]],
    longest: Callable[[PreTrainedConfig], int] = longest_positions,
    stack: Mapping[type[nn.Module], type[Slotted]] | None = None,
) -> Family:
    """A family whose layers are BERT's but for the names of their classes.

    Args:
        model_type: of its configurations.
        layer: the float class of a layer.
        blocks: float class to quantized class, that of the layer among them.
        longest: as in ``Family``.
        stack: float class to quantized class of what holds the layers, where they can be a decoder's.
    """
    outer = stack or {}
    return Family(
        model_type=model_type,
        layer=layer,
        layer_pattern=r"\bencoder\.layer\.\d+\b",
        swaps={nn.Linear: QuantLinear, nn.LayerNorm: StreamNorm, **blocks},
        outer_swaps=outer,
        slots={block: block.slots for block in (*blocks.values(), *outer.values())},
        plan=plan_layer,
        shared=plan_shared,
        decodes=bool(outer),
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
                BertCrossAttention: QuantBertCrossAttention,
                BertAttention: QuantBertAttention,
                BertSelfOutput: QuantBertSelfOutput,
                BertOutput: QuantBertOutput,
                BertLayer: QuantBertLayer,
            },
            stack={BertEncoder: QuantBertEncoder},
        ),
        relative={BertSelfAttention: RelativeBertSelfAttention},
    )
)
