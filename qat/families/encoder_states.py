"""The states of another model that a decoder attends to: one tensor, read by every layer, quantized once."""

from typing import Any

from torch import Tensor

from qat.families.base import Activation, Point, Reader
from qat.families.blocks import Slotted
from qat.quantizer import Slot


class QuantizesEncoderStates(Slotted):
    """A stack of layers that quantizes the states they attend to once for all of them."""

    slots = ("encoder_quantizer",)
    encoder_quantizer: Slot

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """As the float module's."""
        if encoder_hidden_states is not None:
            encoder_hidden_states = self.encoder_quantizer(encoder_hidden_states)
        return super().forward(hidden_states, attention_mask, encoder_hidden_states, *args, **kwargs)


def encoder_states(stack: str, attentions: tuple[str, ...]) -> Activation:
    """The states that the keys and values of ``attentions`` are made of, owned by the ``stack`` of layers."""
    readers = tuple(Reader(f"{path}.{part}", "input") for path in attentions for part in ("key", "value"))
    return Activation(
        points=(
            Point(stack, "encoder_quantizer", readers),
            *(Point(reader.module, "input_quantizer", (reader,)) for reader in readers),
        ),
        tokens="encoder",
    )
