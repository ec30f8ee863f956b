"""SqueezeBERT: 1x1 convolutions, most of them grouped, over ``(batch, channels, tokens)``."""

from collections.abc import Callable, Sequence
from typing import Any, cast

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.squeezebert.modeling_squeezebert import (
    ConvDropoutLayerNorm,
    MatMulWrapper,
    SqueezeBertLayerNorm,
    SqueezeBertModule,
    SqueezeBertSelfAttention,
)

from qat.families.base import (
    Activation,
    Block,
    Family,
    LayerPlan,
    Point,
    Reader,
    chain_stream,
    linear_input,
    linear_output,
    linear_product,
    register_family,
)
from qat.layers import HoldingWeights, QuantConv1d
from qat.pruned_heads import bert_like_heads
from qat.quantizer import Slot
from qat.residual_stream import Gain, StreamTensor, channel_axis

_TOKENS = 2
"""Where tokens lie in ``(batch, channels, tokens)``."""


class QuantMatMul(MatMulWrapper):
    """A product of two activations, each with a slot: q and k in the first of an attention, v in the second."""

    left_quantizer: Slot
    right_quantizer: Slot

    def forward(self, mat1: Tensor, mat2: Tensor) -> Tensor:
        """The product of the quantized operands."""
        return cast(Tensor, super().forward(self.left_quantizer(mat1), self.right_quantizer(mat2)))  # type: ignore[no-untyped-call]


class QuantSoftmax(nn.Softmax):
    """The attention's softmax; its result is quantized here, before dropout lifts probabilities above 1."""

    probs_quantizer: Slot

    def forward(self, scores: Tensor) -> Tensor:
        """The quantized probabilities."""
        return cast(Tensor, self.probs_quantizer(super().forward(scores)))


class QuantSqueezeBertSelfAttention(HoldingWeights, SqueezeBertSelfAttention):
    """Self-attention that quantizes its input where only q, k and v read it."""

    hidden_quantizer: Slot

    def forward(self, hidden_states: Tensor, *args: Any) -> dict[str, Tensor]:
        """As the float module's."""
        return cast("dict[str, Tensor]", super().forward(self.hidden_quantizer(hidden_states), *args))


class SqueezeBertStreamNorm(Gain, SqueezeBertLayerNorm):
    """The family's LayerNorm over ``(batch, channels, tokens)``, of a sum in the stream's units."""

    def forward(self, x: Tensor) -> Tensor:
        """As the float module's, of the sum turned back."""
        return cast(Tensor, super().forward(self.apply_gain(x, axis=1)))  # type: ignore[no-untyped-call]


@channel_axis.register
def _(layer: SqueezeBertLayerNorm) -> int:
    return 1


class QuantConvDropoutLayerNorm(ConvDropoutLayerNorm):
    """Convolution, residual add and normalization; after attention the result is quantized once for the FFN's readers.

    The layer hands that result to two modules and lets nobody step in between, so it is quantized where it is made.
    """

    residual_quantizer: Slot
    ffn_quantizer: Slot

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        """As the float module's."""
        output = super().forward(hidden_states, self.residual_quantizer(input_tensor))  # type: ignore[no-untyped-call]
        return cast(Tensor, self.ffn_quantizer(output))


class QuantSqueezeBertModule(SqueezeBertModule):
    """The layer; quantizes its input once for q, k, v and the residual.

    Upstream's encoder calls ``forward`` past ``__call__``, and with it past the hooks by which FSDP gathers a layer's
    weights: so ``forward`` goes back to it. Upstream has no gradient checkpointing either; it happens inside the hooks.
    """

    hidden_quantizer: Slot
    gradient_checkpointing = False
    _gradient_checkpointing_func: Callable[..., tuple[Tensor, ...]]

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """As of every module, its hooks included."""
        return cast("dict[str, Tensor]", super().__call__(*args, **{**kwargs, "hooked": True}))

    def forward(self, hidden_states: Tensor, *args: Any, hooked: bool = False) -> dict[str, Tensor]:
        """As the float module's; recomputed in the backward pass under gradient checkpointing."""
        if not hooked:
            return self(hidden_states, *args)
        if self.gradient_checkpointing and self.training:
            values = self._gradient_checkpointing_func(self._run_layer, hidden_states, *args)
        else:
            values = self._run_layer(hidden_states, *args)
        return dict(zip(("feature_map", "attention_score"), values, strict=False))

    def _run_layer(self, hidden_states: Tensor, *args: Any) -> tuple[Tensor, ...]:
        """The layer's tensors in a tuple: reentrant checkpointing loses the gradients of any other container."""
        found = super().forward(self.hidden_quantizer(hidden_states), *args)  # type: ignore[no-untyped-call]
        return tuple(found[name] for name in ("feature_map", "attention_score") if name in found)


def attention_products(attention: str) -> tuple[Activation, ...]:
    """The q, k, v and probabilities of the two products of an attention, quantized all or none.

    The key is ``(batch, heads, head size, tokens)``, the other three ``(batch, heads, tokens, ...)``.
    """
    readers = (Reader(attention, "attention"),)
    scores, context, softmax = (f"{attention}.{part}" for part in ("matmul_qk", "matmul_qkv", "softmax"))
    return (
        Activation(points=(Point(scores, "left_quantizer", readers),), token_axis=2),
        Activation(points=(Point(scores, "right_quantizer", readers),), token_axis=3),
        Activation(points=(Point(context, "right_quantizer", readers),), token_axis=2),
        Activation(points=(Point(softmax, "probs_quantizer", readers),), token_axis=2, range_source="constant"),
    )


def tied_projections(attention: str, module: SqueezeBertSelfAttention) -> tuple[tuple[str, ...], ...]:
    """The paths of q, k and v in groups of one group count: only those can become one GEMM."""
    groups: dict[int, list[str]] = {}
    for part in ("query", "key", "value"):
        groups.setdefault(cast(nn.Conv1d, module.get_submodule(part)).groups, []).append(f"{attention}.{part}")
    return tuple(tuple(paths) for paths in groups.values())


def plan_layer(name: str, layer: nn.Module, model: PreTrainedModel) -> LayerPlan:
    """The tensors of one SqueezeBertModule."""
    attention, post, out = f"{name}.attention", f"{name}.post_attention", f"{name}.output"
    ffn = f"{name}.intermediate.conv1d"
    projections = tuple(Reader(f"{attention}.{part}", "input") for part in ("query", "key", "value"))
    first_residual, second_residual = Reader(post, "residual"), Reader(out, "residual")
    hidden = Activation(
        points=(
            Point(name, "hidden_quantizer", (*projections, first_residual)),
            Point(attention, "hidden_quantizer", projections),
            *(Point(reader.module, "input_quantizer", (reader,)) for reader in projections),
            Point(post, "residual_quantizer", (first_residual,)),
        ),
        token_axis=_TOKENS,
    )
    ffn_input = Activation(
        points=(
            Point(post, "ffn_quantizer", (Reader(ffn, "input"), second_residual)),
            Point(ffn, "input_quantizer", (Reader(ffn, "input"),)),
            Point(out, "residual_quantizer", (second_residual,)),
        ),
        token_axis=_TOKENS,
    )
    convs = (f"{post}.conv1d", f"{out}.conv1d")
    return LayerPlan(
        activations=(
            hidden,
            *attention_products(attention),
            linear_input(convs[0], token_axis=_TOKENS),
            linear_product(convs[0], "product", token_axis=_TOKENS),
            linear_output(convs[0], token_axis=_TOKENS),
            ffn_input,
            linear_product(ffn, "preactivation", token_axis=_TOKENS),
            linear_input(convs[1], token_axis=_TOKENS),
            linear_product(convs[1], "product", token_axis=_TOKENS),
            linear_output(convs[1], token_axis=_TOKENS),
        ),
        weights=(
            *tied_projections(attention, cast(SqueezeBertSelfAttention, layer.attention)),
            (convs[0],),
            (ffn,),
            (convs[1],),
        ),
    )


def plan_stream(layers: Sequence[str], model: PreTrainedModel) -> tuple[StreamTensor, ...]:
    """The stream from the embeddings to the last layer's second normalization."""
    blocks = []
    for name in layers:
        qkv = tuple(f"{name}.attention.{part}" for part in ("query", "key", "value"))
        post, out = f"{name}.post_attention", f"{name}.output"
        blocks += [
            Block(readers=qkv, addend=f"{post}.conv1d", norm=f"{post}.layernorm"),
            Block(readers=(f"{name}.intermediate.conv1d",), addend=f"{out}.conv1d", norm=f"{out}.layernorm"),
        ]
    return chain_stream(f"{layers[0].rsplit('encoder.', 1)[0]}embeddings.LayerNorm", blocks)


SQUEEZEBERT = register_family(
    Family(
        model_type="squeezebert",
        layer=SqueezeBertModule,
        layer_pattern=r"\bencoder\.layers\.\d+\b",
        swaps={
            nn.Conv1d: QuantConv1d,
            nn.Softmax: QuantSoftmax,
            SqueezeBertLayerNorm: SqueezeBertStreamNorm,
            MatMulWrapper: QuantMatMul,
            SqueezeBertSelfAttention: QuantSqueezeBertSelfAttention,
            ConvDropoutLayerNorm: QuantConvDropoutLayerNorm,
            SqueezeBertModule: QuantSqueezeBertModule,
        },
        slots={
            QuantSoftmax: ("probs_quantizer",),
            QuantMatMul: ("left_quantizer", "right_quantizer"),
            QuantSqueezeBertSelfAttention: ("hidden_quantizer",),
            QuantConvDropoutLayerNorm: ("residual_quantizer", "ffn_quantizer"),
            QuantSqueezeBertModule: ("hidden_quantizer",),
        },
        heads=bert_like_heads("attention", "post_attention.conv1d"),
        plan=plan_layer,
        stream=plan_stream,
        attention_output="scores",
    )
)
