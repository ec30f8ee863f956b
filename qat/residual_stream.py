"""The residual stream in units of each channel's own: a few channels larger than all others need not set INT8's step.

A tensor that several layers and a residual add read can be stored divided by a vector: whoever writes it divides, the
layers that read it multiply into their weights, and the normalization behind the add turns the sum back. The factors
are powers of two, so the model computes the same numbers bit by bit, and what reaches a quantizer is even. Unlike
SmoothQuant (Xiao et al. 2022, arXiv 2211.10438) this reaches the residual too, because the sum is multiplied, which an
engine does in the kernel of the normalization.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import singledispatch
from typing import cast

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamTensor:
    """One tensor of the residual stream, by the paths of the modules around it.

    Attributes:
        writers: the normalizations, or the Linear before the first layer, whose output it is.
        readers: the layers whose input it is.
        addends: the layers whose output is added to it.
        gains: the modules that turn it back: the normalizations of the sums.
    """

    writers: tuple[str, ...]
    readers: tuple[str, ...]
    addends: tuple[str, ...]
    gains: tuple[str, ...]

    @property
    def written(self) -> tuple[str, ...]:
        """Everything whose output is in the tensor's units: what writes it, and what is added to it."""
        return (*self.writers, *self.addends)


class Gain(nn.Module):
    """A module that turns its input, or what it ends with, back from the stream's units; ``gain`` is ``(hidden,)``."""

    gain: Tensor

    def apply_gain(self, x: Tensor, axis: int = -1) -> Tensor:
        """``x`` with its channels multiplied by the gain."""
        gain = self.gain.to(x.dtype)
        return x * (gain if axis == -1 else gain[:, None])


class StreamNorm(Gain, nn.LayerNorm):
    """A LayerNorm of a sum in the stream's units."""

    def forward(self, x: Tensor) -> Tensor:
        """As the float module's, of the sum turned back."""
        return super().forward(self.apply_gain(x))


def reset_gain(module: Gain, width: int) -> None:
    """Gives ``module`` a gain of one."""
    device = next(module.parameters()).device
    module.register_buffer("gain", torch.ones(width, device=device))


def rescale_stream(model: nn.Module, tensor: StreamTensor, factor: Tensor) -> None:
    """Divides one tensor of the stream by ``factor``, in place; the model's outputs stay the same.

    Args:
        model: a wrapped model.
        tensor: which one.
        factor: ``(hidden,)``; powers of two change no bit of what the model computes.
    """
    with torch.no_grad():
        for path in tensor.written:
            scale_outputs(model.get_submodule(path), 1 / factor)
        for path in tensor.readers:
            scale_inputs(model.get_submodule(path), factor)
        for path in tensor.gains:
            cast(Gain, model.get_submodule(path)).gain.mul_(factor)


def restore_stream(model: nn.Module, tensors: Iterable[StreamTensor]) -> None:
    """Turns every tensor of the stream back to the units it had in the float model, in place."""
    for tensor in tensors:
        gain = cast(Gain, model.get_submodule(tensor.gains[0])).gain
        rescale_stream(model, tensor, 1 / gain)


def nearest_power(factor: Tensor) -> Tensor:
    """Each factor's nearest power of two.

    >>> nearest_power(torch.tensor([1.0, 3.0, 0.3]))
    tensor([1.0000, 4.0000, 0.2500])
    """
    return torch.exp2(torch.log2(factor).round())


@singledispatch
def scale_outputs(layer: nn.Module, factor: Tensor) -> None:
    """Multiplies the output channels of a layer, ``factor`` being ``(out,)``."""
    raise TypeError(f"no outputs to scale in a {type(layer).__name__}")


@singledispatch
def scale_inputs(layer: nn.Module, factor: Tensor) -> None:
    """Lets a layer expect its input channels divided by ``factor``, ``(in,)``."""
    raise TypeError(f"no inputs to scale in a {type(layer).__name__}")


@singledispatch
def channel_axis(layer: nn.Module) -> int:
    """Where the output of a layer has its channels."""
    return -1


@channel_axis.register
def _(layer: nn.Conv1d) -> int:
    return 1


@scale_outputs.register
def _(layer: nn.LayerNorm, factor: Tensor) -> None:
    layer.weight.mul_(factor)
    layer.bias.mul_(factor)


@scale_outputs.register
def _(layer: nn.Linear, factor: Tensor) -> None:
    layer.weight.mul_(factor[:, None])
    if layer.bias is not None:
        layer.bias.mul_(factor)


@scale_inputs.register
def _(layer: nn.Linear, factor: Tensor) -> None:
    layer.weight.mul_(factor)


@scale_outputs.register
def _(layer: nn.Conv1d, factor: Tensor) -> None:
    layer.weight.mul_(factor[:, None, None])
    if layer.bias is not None:
        layer.bias.mul_(factor)


@scale_inputs.register
def _(layer: nn.Conv1d, factor: Tensor) -> None:
    groups, width = layer.groups, layer.in_channels // layer.groups
    weight = layer.weight.view(groups, -1, width, layer.kernel_size[0])
    weight.mul_(factor.view(groups, 1, width, 1))
