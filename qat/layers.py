"""Quantized layers: subclasses that take over a float layer in place, with its parameters, keys and hooks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from qat.fake_quant import largest_magnitude
from qat.quantizer import FakeQuantizer, Slot
from qat.sharding import gather_whole

SLOTS = ("input_quantizer", "weight_quantizer", "product_quantizer", "output_quantizer")
"""The slots of every layer with a quantized weight."""

_Held = tuple[Literal["amax", "weight"], bool, bool]
"""What was made of a weight, and whether with gradients and in inference mode."""


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
    held: dict[_Held, Tensor] | None = None
    """While ``holding_weights`` runs, what has been made of the weight so far."""

    def weight_amax(self) -> Tensor:
        """The weight's range now, its partners' included: ``(out,)`` per channel, ``(1,)`` per tensor.

        Of a weight of 7 bits it is as much wider as keeps its largest value at level 63.
        """
        amax = self._once("amax", self._own_amax)
        for partner in self.partners:
            amax = torch.maximum(amax, partner._once("amax", partner._own_amax))
        return amax * cast(FakeQuantizer, self.weight_quantizer).spec.headroom

    def _own_amax(self) -> Tensor:
        weight = gather_whole(self.weight.detach())
        return largest_magnitude(weight, cast(FakeQuantizer, self.weight_quantizer).axis)

    def quantized_weight(self) -> Tensor:
        """The weight as the engine will hold it: with the range it has now, or with the stored one."""
        quantizer = self.weight_quantizer
        follows = isinstance(quantizer, FakeQuantizer) and quantizer.spec.range_source == "weight"
        if not follows or not quantizer.enabled or torch.compiler.is_exporting():
            return cast(Tensor, quantizer(self.weight))
        if quantizer.watched:
            return self._round_weight()
        return self._once("weight", self._round_weight)

    def _round_weight(self) -> Tensor:
        return cast(Tensor, self.weight_quantizer(self.weight, self.weight_amax()))

    def _once(self, name: Literal["amax", "weight"], make: Callable[[], Tensor]) -> Tensor:
        """What ``make`` gives, made once while weights are held: once with gradients, and once without."""
        if self.held is None:
            return make()
        key = (name, torch.is_grad_enabled(), torch.is_inference_mode_enabled())
        if key not in self.held:
            self.held[key] = make()
        return self.held[key]

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


def add_bias(quantizer: Slot, product: Tensor, bias: Tensor) -> Tensor:
    """The quantized product and the bias, in the memory of the first where nobody else can have seen it."""
    y: Tensor = quantizer(product)
    fresh = isinstance(quantizer, FakeQuantizer) and not quantizer.watched and not torch.compiler.is_compiling()
    return y.add_(bias) if fresh and y.dtype == bias.dtype else y + bias


class QuantLinear(QuantizedLayer, nn.Linear):
    """A Linear whose input, weight, product and output have slots for a quantizer."""

    def forward(self, x: Tensor) -> Tensor:
        """The layer on quantized input and weight; the bias stays float."""
        x, weight = self.input_quantizer(x), self.quantized_weight()
        if self.product_quantizer.idle or self.bias is None:
            y = self.product_quantizer(functional.linear(x, weight, self.bias))
        else:
            y = add_bias(self.product_quantizer, functional.linear(x, weight), self.bias)
        return cast(Tensor, self.output_quantizer(y))


class QuantConv1d(QuantizedLayer, nn.Conv1d):
    """A Conv1d, dense, grouped or depthwise, with the same slots; padding is zero and zero is exact in INT8."""

    def forward(self, x: Tensor) -> Tensor:
        """The layer on quantized input ``(batch, channels, tokens)`` and weight; the bias stays float."""
        x, weight = self.input_quantizer(x), self.quantized_weight()
        if self.product_quantizer.idle or self.bias is None:
            y = self.product_quantizer(self._conv_forward(x, weight, self.bias))
        else:
            y = add_bias(self.product_quantizer, self._conv_forward(x, weight, None), self.bias[:, None])
        return cast(Tensor, self.output_quantizer(y))


def refresh_weight_ranges(model: nn.Module) -> None:
    """Stores the present range of every weight that its range follows."""
    for module in model.modules():
        if isinstance(module, QuantizedLayer):
            module.refresh_weight_range()


@contextmanager
def holding_weights(model: nn.Module) -> Iterator[None]:
    """Inside the block every weight of ``model`` is quantized once, however often its layer runs.

    Nobody may change a weight meanwhile. What was made is gone when the block ends, so nothing outlives an optimizer
    step, a load or a move; a copy kept for longer would need to know of changes that torch does not count (a write
    through ``.data``, or FSDP gathering a weight). Blocks nest: the outermost decides. Under ``torch.compile`` nothing
    is held: a compiler sees for itself what is computed twice.
    """
    if torch.compiler.is_compiling():
        yield
        return
    layers = [module for module in model.modules() if isinstance(module, QuantizedLayer) and module.held is None]
    for layer in layers:
        layer.held = {}
    try:
        yield
    finally:
        for layer in layers:
            layer.held = None


class HoldingWeights(nn.Module):
    """A module that quantizes each of its weights, and takes each weight's range, once in a forward pass."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the float module's."""
        with holding_weights(self):
            return super().forward(*args, **kwargs)
