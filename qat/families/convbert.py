"""ConvBERT: self-attention beside a convolution whose kernels each token makes for itself.

Upstream computes a whole attention block in one forward, so its quantizers sit in the modules that forward calls: q, k
and v are quantized as the Linears' outputs (the query is then read twice, by the attention and by the kernel branch),
the probabilities where dropout gets them.

Upstream's decoder (``is_decoder``, ``add_cross_attention``) is one by name: its mask is not causal and its convolution
reads ``conv_kernel_size // 2`` tokens ahead, it has no cache, cuts the keys of encoder states by the number of its own
tokens (so both must be as many), and adds ``encoder_attention_mask`` to the scores as it is given. All of that stays.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.convbert.modeling_convbert import (
    ConvBertAttention,
    ConvBertEncoder,
    ConvBertLayer,
    ConvBertOutput,
    ConvBertSelfAttention,
    ConvBertSelfOutput,
    GroupedLinearLayer,
)

from qat.errors import CheckpointError
from qat.families.base import (
    Activation,
    Block,
    Family,
    FloatPart,
    LayerPlan,
    Point,
    Reader,
    chain_stream,
    feed_forward_input,
    find_first_writer,
    hidden_input,
    linear_input,
    linear_output,
    linear_product,
    register_family,
)
from qat.families.blocks import QuantizesFeedForward, QuantizesInput, QuantizesResidual
from qat.families.encoder_states import QuantizesEncoderStates, encoder_states
from qat.grouped_linear import QuantGroupedLinear
from qat.layers import SLOTS, HoldingWeights, QuantConv1d, QuantLinear
from qat.pruned_heads import HeadPlan, HeadSlice, bert_like_heads
from qat.quantizer import Slot
from qat.residual_stream import StreamNorm, StreamTensor
from qat.spec import Tokens

DEPTHWISE = "one multiply-accumulate for each value it reads: memory-bound, and INT8 costs it kernels of its own"
SPAN = "each token has a kernel of its own: a sum of a few products, which no INT8 matrix kernel computes"


class QuantConvBertDropout(nn.Dropout):
    """A dropout of the layer; that of the probabilities quantizes them first, since it would lift them above 1."""

    probs_quantizer: Slot

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """As the float module's."""
        return super().forward(self.probs_quantizer(input))


class QuantConvBertSelfAttention(QuantizesInput, HoldingWeights, ConvBertSelfAttention):
    """The mixed attention; quantizes its input where only the projections read it."""


class QuantConvBertAttention(QuantizesInput, ConvBertAttention):
    """The attention block; its input is read by the projections, the convolution and the residual."""


class QuantConvBertSelfOutput(QuantizesResidual, ConvBertSelfOutput):
    """The first residual add."""


class QuantConvBertOutput(QuantizesResidual, ConvBertOutput):
    """The second residual add."""


class QuantConvBertEncoder(QuantizesEncoderStates, ConvBertEncoder):
    """The stack of layers."""


class QuantConvBertLayer(QuantizesFeedForward, ConvBertLayer):
    """The layer."""


def plan_layer(name: str, layer: nn.Module, model: PreTrainedModel) -> LayerPlan:
    """The tensors of one ConvBertLayer.

    Raises:
        CheckpointError: an even kernel, which upstream cannot run.
    """
    require_odd_kernel(model.config)
    ffn, out = f"{name}.intermediate.dense", f"{name}.output"
    halves = [plan_attention(path, keys=keys) for path, keys in _attentions(name, model.config).items()]
    return LayerPlan(
        activations=(
            *(activation for half in halves for activation in half.activations),
            feed_forward_input(name, ffn, out),
            linear_product(ffn, "preactivation"),
            linear_input(f"{out}.dense"),
            linear_product(f"{out}.dense", "product"),
            linear_output(f"{out}.dense"),
        ),
        weights=(*(group for half in halves for group in half.weights), (ffn,), (f"{out}.dense",)),
        float_parts=tuple(part for half in halves for part in half.float_parts),
    )


def plan_attention(path: str, *, keys: Tokens) -> LayerPlan:
    """The tensors of a mixed attention block, whose keys and values may be those of another model's states."""
    inner, dense = f"{path}.self", f"{path}.output.dense"
    separable = f"{inner}.key_conv_attn_layer"
    pointwise, kernel = f"{separable}.pointwise", f"{inner}.conv_kernel_layer"
    pair = (f"{inner}.key", f"{inner}.value")
    own = (f"{inner}.query", *(pair if keys == "own" else ()), f"{inner}.conv_out_layer")
    return LayerPlan(
        activations=(
            hidden_input(path, inner, own),
            *_attention_four(inner, keys),
            Activation(points=(Point(pointwise, "input_quantizer", (Reader(pointwise, "input"),)),), token_axis=2),
            linear_input(kernel),
            linear_input(dense),
            linear_product(dense, "product"),
            linear_output(dense),
        ),
        weights=(own, *([pair] if keys == "encoder" else []), (pointwise,), (kernel,), (dense,)),
        float_parts=(
            FloatPart(module=f"{separable}.depthwise", kind="depthwise convolution", reason=DEPTHWISE),
            FloatPart(module=inner, kind="span convolution", reason=SPAN),
        ),
    )


def plan_shared(layers: Sequence[str], model: PreTrainedModel) -> tuple[Activation, ...]:
    """The states that every layer attends to."""
    if not (layers and model.config.add_cross_attention):
        return ()
    return (encoder_states(layers[0].rsplit(".layer.", 1)[0], tuple(f"{name}.crossattention.self" for name in layers)),)


def _attentions(layer: str, config: PreTrainedConfig) -> dict[str, Tokens]:
    """The attention blocks of a layer, and whose tokens their keys are of."""
    crosses: dict[str, Tokens] = {f"{layer}.crossattention": "encoder"} if config.add_cross_attention else {}
    return {f"{layer}.attention": "own", **crosses}


def plan_stream(layers: Sequence[str], model: PreTrainedModel) -> tuple[StreamTensor, ...]:
    """The stream from the embeddings, or their projection, to the last layer's second normalization."""
    blocks = []
    for name in layers:
        first, *crosses = (_attention_block(path, keys) for path, keys in _attentions(name, model.config).items())
        last = Block(
            readers=(f"{name}.intermediate.dense",),
            addend=f"{name}.output.dense",
            norm=f"{name}.output.LayerNorm",
            optional=tuple(crosses),
        )
        blocks += [first, last]
    return chain_stream(find_first_writer(layers[0].rsplit("encoder.", 1)[0], model), blocks)


def _attention_block(path: str, keys: Tokens) -> Block:
    own = ("query", *(("key", "value") if keys == "own" else ()), "conv_out_layer", "key_conv_attn_layer.depthwise")
    return Block(
        readers=tuple(f"{path}.self.{part}" for part in own),
        addend=f"{path}.output.dense",
        norm=f"{path}.output.LayerNorm",
    )


def require_odd_kernel(config: PreTrainedConfig) -> None:
    """Passes when upstream's layer can run at all.

    Raises:
        CheckpointError: it does not.
    """
    if config.conv_kernel_size % 2 == 0:
        raise CheckpointError(
            f"a ConvBERT with an even kernel cannot run (conv_kernel_size is {config.conv_kernel_size} in its "
            "config.json): its convolution gives one token too many; an odd size is expected, as 9"
        )


def _attention_four(inner: str, keys: Tokens) -> tuple[Activation, ...]:
    """As ``attention_four``, at the modules that make the four tensors."""
    readers = (Reader(inner, "attention"),)
    owners: dict[str, Tokens] = {"query": "own", "key": keys, "value": keys}
    measured = tuple(
        Activation(points=(Point(f"{inner}.{part}", "output_quantizer", readers),), tokens=tokens)
        for part, tokens in owners.items()
    )
    point = Point(f"{inner}.dropout", "probs_quantizer", readers)
    return (*measured, Activation(points=(point,), token_axis=2, range_source="constant"))


_INNER, _OWN = "attention.self", ("weight", "bias")
_HEADS = HeadPlan(
    counter=_INNER,
    slices=(
        *bert_like_heads(_INNER, "attention.output.dense").slices[:-1],
        *(HeadSlice(f"{_INNER}.{part}.{name}") for part in ("conv_out_layer", "conv_kernel_layer") for name in _OWN),
        HeadSlice(f"{_INNER}.key_conv_attn_layer.pointwise.weight"),
        HeadSlice(f"{_INNER}.key_conv_attn_layer.bias"),
        HeadSlice(f"{_INNER}.conv_kernel_layer.weight", axis=1),
        HeadSlice("attention.output.dense.weight", axis=1, copies=2),
    ),
)
"""A head is its attention and its convolution both: its part of the query makes kernels of every head."""

CONVBERT = register_family(
    Family(
        model_type="convbert",
        layer=ConvBertLayer,
        layer_pattern=r"\bencoder\.layer\.\d+\b",
        swaps={
            nn.Linear: QuantLinear,
            nn.LayerNorm: StreamNorm,
            nn.Conv1d: QuantConv1d,
            nn.Dropout: QuantConvBertDropout,
            GroupedLinearLayer: QuantGroupedLinear,
            ConvBertSelfAttention: QuantConvBertSelfAttention,
            ConvBertAttention: QuantConvBertAttention,
            ConvBertSelfOutput: QuantConvBertSelfOutput,
            ConvBertOutput: QuantConvBertOutput,
            ConvBertLayer: QuantConvBertLayer,
        },
        outer_swaps={ConvBertEncoder: QuantConvBertEncoder},
        slots={
            QuantGroupedLinear: SLOTS,
            QuantConvBertEncoder: QuantConvBertEncoder.slots,
            QuantConvBertDropout: ("probs_quantizer",),
            QuantConvBertSelfAttention: QuantConvBertSelfAttention.slots,
            QuantConvBertAttention: QuantConvBertAttention.slots,
            QuantConvBertSelfOutput: QuantConvBertSelfOutput.slots,
            QuantConvBertOutput: QuantConvBertOutput.slots,
            QuantConvBertLayer: QuantConvBertLayer.slots,
        },
        heads=_HEADS,
        plan=plan_layer,
        shared=plan_shared,
        stream=plan_stream,
    )
)
