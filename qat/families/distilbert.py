"""DistilBERT: a BERT without segments and pooler, each layer's two residual adds in the layer's own forward."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.distilbert.modeling_distilbert import DistilBertSelfAttention, TransformerBlock

from qat.families.base import (
    Activation,
    Block,
    Family,
    LayerPlan,
    Point,
    Reader,
    attention_four,
    chain_stream,
    linear_input,
    linear_output,
    linear_product,
    register_family,
)
from qat.families.blocks import QuantizesAttention, QuantizesInput, Slotted
from qat.layers import QuantLinear
from qat.quantizer import Slot
from qat.residual_stream import StreamNorm, StreamTensor


class QuantDistilBertSelfAttention(QuantizesAttention, DistilBertSelfAttention):
    """Self-attention with its output projection."""


class QuantTransformerBlock(QuantizesInput, TransformerBlock):
    """The layer; quantizes its input once for q, k, v and the residual."""


class QuantDistilBertNorm(Slotted, StreamNorm):
    """A normalization; the first of a layer quantizes its result once for the feed-forward block and the residual.

    The layer hands that result to both and lets nobody step in between, so it is quantized where it is made.
    """

    slots = ("ffn_quantizer",)
    ffn_quantizer: Slot

    def forward(self, x: Tensor) -> Any:
        """As the float module's."""
        return self.ffn_quantizer(super().forward(x))


def plan_layer(name: str, layer: nn.Module, model: PreTrainedModel) -> LayerPlan:
    """The tensors of one TransformerBlock."""
    attention, norm, out = f"{name}.attention", f"{name}.sa_layer_norm", f"{name}.attention.out_lin"
    first, second = f"{name}.ffn.lin1", f"{name}.ffn.lin2"
    projections = tuple(Reader(path, "input") for path in _projections(name))
    hidden = Activation(
        points=(
            Point(name, "hidden_quantizer", (*projections, Reader(attention, "residual"))),
            Point(attention, "hidden_quantizer", projections),
            *(Point(reader.module, "input_quantizer", (reader,)) for reader in projections),
        )
    )
    ffn_input = Activation(
        points=(
            Point(norm, "ffn_quantizer", (Reader(first, "input"), Reader(name, "residual"))),
            Point(first, "input_quantizer", (Reader(first, "input"),)),
        )
    )
    return LayerPlan(
        activations=(
            hidden,
            *attention_four(attention),
            linear_input(out),
            linear_product(out, "product"),
            linear_output(out),
            ffn_input,
            linear_product(first, "preactivation"),
            linear_input(second),
            linear_product(second, "product"),
            linear_output(second),
        ),
        weights=(_projections(name), (out,), (first,), (second,)),
    )


def plan_stream(layers: Sequence[str], model: PreTrainedModel) -> tuple[StreamTensor, ...]:
    """The stream from the embeddings to the last layer's second normalization."""
    blocks = []
    for name in layers:
        blocks += [
            Block(readers=_projections(name), addend=f"{name}.attention.out_lin", norm=f"{name}.sa_layer_norm"),
            Block(readers=(f"{name}.ffn.lin1",), addend=f"{name}.ffn.lin2", norm=f"{name}.output_layer_norm"),
        ]
    return chain_stream(f"{layers[0].rsplit('transformer.', 1)[0]}embeddings.LayerNorm", blocks)


def _projections(layer: str) -> tuple[str, ...]:
    return tuple(f"{layer}.attention.{part}" for part in ("q_lin", "k_lin", "v_lin"))


DISTILBERT = register_family(
    Family(
        model_type="distilbert",
        layer=TransformerBlock,
        layer_pattern=r"\btransformer\.layer\.\d+\b",
        swaps={
            nn.Linear: QuantLinear,
            nn.LayerNorm: QuantDistilBertNorm,
            DistilBertSelfAttention: QuantDistilBertSelfAttention,
            TransformerBlock: QuantTransformerBlock,
        },
        slots={
            QuantDistilBertNorm: QuantDistilBertNorm.slots,
            QuantDistilBertSelfAttention: QuantDistilBertSelfAttention.slots,
            QuantTransformerBlock: QuantTransformerBlock.slots,
        },
        plan=plan_layer,
        stream=plan_stream,
        feed_forward=lambda name: (f"{name}.ffn.lin1", f"{name}.ffn.lin2"),
        neurons="hidden_dim",
    )
)
