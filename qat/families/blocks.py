"""The modules that BERT-like layers are made of, with their quantizers: each goes before a float class of a family."""

from typing import Any, ClassVar, cast

from torch import Tensor, nn

from qat.attention import QuantAttention, require_quantized_attention
from qat.quantizer import Slot


class Slotted(nn.Module):
    """A part of a layer that gains slots when it is taken over."""

    slots: ClassVar[tuple[str, ...]]


class QuantizesAttention(Slotted, QuantAttention):
    """Self-attention that quantizes q, k, v and the probabilities, and its input where only q, k and v read it."""

    slots = ("hidden_quantizer", "query_quantizer", "key_quantizer", "value_quantizer", "probs_quantizer")
    hidden_quantizer: Slot

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """As the float module's."""
        require_quantized_attention(cast(Any, self).config._attn_implementation)
        return super().forward(self.hidden_quantizer(hidden_states), *args, **kwargs)


class QuantizesCrossAttention(Slotted, QuantAttention):
    """Attention to another model's states, which all layers share: quantizes q, k, v and the probabilities."""

    slots = ("query_quantizer", "key_quantizer", "value_quantizer", "probs_quantizer")

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """As the float module's."""
        require_quantized_attention(cast(Any, self).config._attn_implementation)
        return super().forward(hidden_states, *args, **kwargs)


class QuantizesInput(Slotted):
    """A module that quantizes its input once for all its readers, as an attention for q, k, v and the residual."""

    slots = ("hidden_quantizer",)
    hidden_quantizer: Slot

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """As the float module's."""
        return super().forward(self.hidden_quantizer(hidden_states), *args, **kwargs)


class QuantizesResidual(Slotted):
    """A residual add, with a quantizer of its own for the residual where nothing is shared."""

    slots = ("residual_quantizer",)
    residual_quantizer: Slot

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Any:
        """As the float module's."""
        return super().forward(hidden_states, self.residual_quantizer(input_tensor))


class QuantizesFeedForward(Slotted):
    """A layer that quantizes the input of its feed-forward block once for the first GEMM and the residual."""

    slots = ("ffn_quantizer",)
    ffn_quantizer: Slot

    def feed_forward_chunk(self, attention_output: Tensor) -> Any:
        """As the float module's."""
        # no cast of super(): torch.compile follows it as the head of a call only
        return super().feed_forward_chunk(self.ffn_quantizer(attention_output))  # type: ignore[misc]
