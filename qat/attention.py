"""Attention with INT8 matmuls: transformers' eager attention with a quantizer on q, k, v and the probabilities.

Registered with transformers under one name, so that the families' own forwards call it. With its quantizers off it is
bit-identical to ``attn_implementation="eager"``; the scale moves before the first matmul in an export pass.
"""

from typing import Any, cast

from torch import Tensor, matmul, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from qat.errors import CheckpointError
from qat.layers import HoldingWeights
from qat.quantizer import Slot
from qat.relative_positions import RelativePositions
from qat.rounded_product import rounded_product

ATTENTION = "qdq"


class QuantAttention(HoldingWeights):
    """What an attention module gains: the four slots of its two matmuls, all filled or all float."""

    query_quantizer: Slot
    key_quantizer: Slot
    value_quantizer: Slot
    probs_quantizer: Slot


def quantized_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """The context ``(batch, tokens, heads, head size)`` and the probabilities ``(batch, heads, tokens, tokens)``.

    ``query``, ``key`` and ``value`` are ``(batch, heads, tokens, head size)``. Probabilities are quantized before
    dropout, which would lift them above 1.
    """
    quantized = cast(QuantAttention, module)
    if isinstance(module, RelativePositions):
        attention_mask = module.add_distances(query, key, scaling, attention_mask)
    query, key = quantized.query_quantizer(query), quantized.key_quantizer(key)
    scores = matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    probs, value = functional.softmax(scores, dim=-1), quantized.value_quantizer(value)
    if dropout and module.training:
        probs = functional.dropout(quantized.probs_quantizer(probs), p=dropout)
        context = matmul(probs, value)
    else:
        context, probs = rounded_product(quantized.probs_quantizer, probs, value)
    return context.transpose(1, 2).contiguous(), probs


def require_quantized_attention(implementation: str | None) -> None:
    """Passes when the model still runs our attention.

    Raises:
        CheckpointError: another implementation was chosen, which would silently leave the matmuls in float.
    """
    if implementation != ATTENTION:
        raise CheckpointError(
            f"attention implementation {implementation!r} would drop the attention quantizers, '{ATTENTION}' expected: "
            "do not call set_attn_implementation on a quantized model; qdq.unwrap gives the float model back"
        )


AttentionInterface.register(ATTENTION, quantized_attention)
AttentionMaskInterface.register(ATTENTION, ALL_MASK_ATTENTION_FUNCTIONS["eager"])
