"""Quantized layers: subclasses that take over a float layer in place, with its parameters, keys and hooks."""

from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from qat.quantizer import FakeQuantizer, Slot

SLOTS = ("input_quantizer", "weight_quantizer", "product_quantizer", "output_quantizer")
"""The slots of every layer with a quantized weight."""


class QuantizedLayer(nn.Module):
    """A layer that owns its weight's quantizer, and those of its input and output where nobody shares them.

    ``product_quantizer`` rounds what the product gives before the bias is added, which an integer GEMM can write by
    itself; ``output_quantizer`` rounds the sum. ``partners`` are layers whose weights share one range with this one (q,
    k and v with per-tensor weights, so that TensorRT merges the three); the tuple keeps them out of the module tree.
    ``channel_axis`` is the weight's axis of output channels.
    """

    channel_axis: ClassVar[int] = 0

    weight: Tensor
    weight_quantizer: Slot
    input_quantizer: Slot
    product_quantizer: Slot
    output_quantizer: Slot
    partners: tuple["QuantizedLayer", ...]

    def weight_amax(self) -> Tensor:
        """The weight's range now, its partners' included: ``(out,)`` per channel, ``(1,)`` per tensor."""
        amax = self._own_amax()
        for partner in self.partners:
            amax = torch.maximum(amax, partner._own_amax())
        return amax

    def _own_amax(self) -> Tensor:
        weight = self.weight.detach().to(torch.float32)
        axis = cast(FakeQuantizer, self.weight_quantizer).axis
        if axis is None:
            return weight.abs().amax().reshape(1)
        return weight.abs().amax(dim=[i for i in range(weight.dim()) if i != axis])

    def quantized_weight(self) -> Tensor:
        """The weight as the engine will hold it: with the range it has now, or with the stored one."""
        quantizer = self.weight_quantizer
        follows = isinstance(quantizer, FakeQuantizer) and quantizer.spec.range_source == "weight"
        if follows and quantizer.enabled and not torch.compiler.is_exporting():
            return cast(Tensor, quantizer(self.weight, self.weight_amax()))
        return cast(Tensor, quantizer(self.weight))

    def refresh_weight_range(self) -> None:
        """Stores the range the weight has now, so that files and exports hold what training used."""
        quantizer = self.weight_quantizer
        if isinstance(quantizer, FakeQuantizer) and quantizer.spec.range_source == "weight":
            quantizer.set_range(self.weight_amax())

    def _save_to_state_dict(
        self,
        destination: dict[str, Tensor],
        prefix: str,
        keep_vars: bool,  # noqa: FBT001 - torch's signature
    ) -> None:
        if not self.weight.is_meta:  # from_pretrained asks for the keys before there are values
            self.refresh_weight_range()
        super()._save_to_state_dict(destination, prefix, keep_vars)


class QuantLinear(QuantizedLayer, nn.Linear):
    """A Linear whose input, weight, product and output have slots for a quantizer."""

    def forward(self, x: Tensor) -> Tensor:
        """The layer on quantized input and weight; the bias stays float."""
        x, weight = self.input_quantizer(x), self.quantized_weight()
        if self.product_quantizer.idle or self.bias is None:
            y = self.product_quantizer(functional.linear(x, weight, self.bias))
        else:
            y = self.product_quantizer(functional.linear(x, weight)) + self.bias
        return cast(Tensor, self.output_quantizer(y))


class QuantConv1d(QuantizedLayer, nn.Conv1d):
    """A Conv1d, dense, grouped or depthwise, with the same slots; padding is zero and zero is exact in INT8."""

    def forward(self, x: Tensor) -> Tensor:
        """The layer on quantized input ``(batch, channels, tokens)`` and weight; the bias stays float."""
        x, weight = self.input_quantizer(x), self.quantized_weight()
        if self.product_quantizer.idle or self.bias is None:
            y = self.product_quantizer(self._conv_forward(x, weight, self.bias))
        else:
            y = self.product_quantizer(self._conv_forward(x, weight, None)) + self.bias[:, None]
        return cast(Tensor, self.output_quantizer(y))


def refresh_weight_ranges(model: nn.Module) -> None:
    """Stores the present range of every weight that its range follows."""
    for module in model.modules():
        if isinstance(module, QuantizedLayer):
            module.refresh_weight_range()
