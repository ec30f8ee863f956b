"""INT8 fake quantization as one registered operator, and the scale it uses.

The arithmetic is ONNX's QuantizeLinear followed by DequantizeLinear with zero point 0 (ONNX operator specification,
opset 19; TensorRT developer guide, "Explicit quantization"): ``clamp(round_half_even(x / scale), -128, 127) * scale``.
The gradient of the tensor is the straight-through estimator of Bengio et al. 2013 (arXiv 1308.3432), zero where the
value was clamped; that of the scale is LSQ's (Esser et al. 2020, arXiv 1902.08153, equation 3).
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from qat.fused_kernels import find_kernels
from qat.spec import INT8_MAX, INT8_MIN, LARGEST_SCALE, SMALLEST_SCALE, ScaleType


def scale_from_amax(amax: Tensor, scale_type: ScaleType) -> Tensor:
    """The FP32 scale of each range: ``amax / 127``, rounded to an FP16 value unless ``scale_type`` is ``float32``.

    >>> scale_from_amax(torch.tensor([12.7, 0.0]), "float16")
    tensor([9.9976e-02, 6.1035e-05])
    >>> scale_from_amax(torch.tensor([12.7]), "float32")
    tensor([0.1000])
    """
    scale = amax.to(torch.float32) / INT8_MAX
    if scale_type == "float16":  # the floor is an FP16 number
        return scale.clamp(SMALLEST_SCALE, LARGEST_SCALE).to(torch.float16).to(torch.float32)
    return scale.clamp(min=SMALLEST_SCALE)


def largest_magnitude(x: Tensor, axis: int | None) -> Tensor:
    """The range that covers ``x``, FP32: ``(1,)``, or one value for each index of ``axis``; NaN where ``x`` holds one.

    >>> largest_magnitude(torch.tensor([[-3.0, 2.0], [0.0, 1.0]]), 0)
    tensor([3., 1.])
    """
    if not torch.compiler.is_compiling() and axis in (None, 0) and x.is_contiguous() and (kernels := find_kernels(x)):
        return kernels.amax(x, axis)
    others = [i for i in range(x.dim()) if i != axis]
    return x.to(torch.float32).abs().amax(dim=others).reshape(-1)


def fake_quantize(x: Tensor, scale: Tensor, axis: int | None) -> Tensor:
    """``x`` rounded to INT8 steps of ``scale`` and back, in ``x``'s shape and dtype.

    Args:
        x: any float tensor; computed in FP32.
        scale: a scalar, or with ``axis`` a vector of ``x.shape[axis]`` positive steps.
        axis: the channel axis, or None for one scale.

    >>> fake_quantize(torch.tensor([-0.3, 0.04, 0.05, 0.15, 99.0]), torch.tensor(0.1), None)
    tensor([-0.3000,  0.0000,  0.0000,  0.2000, 12.7000])
    """
    if axis is not None or scale.requires_grad or not x.requires_grad or not _is_training():
        return cast(Tensor, quantize_dequantize(x, scale, axis))
    order = _memory_order(x)
    if order is None:
        return cast(Tensor, _RoundAndMask.apply(x, scale))  # type: ignore[no-untyped-call]
    rounded: Tensor = _RoundAndMask.apply(x.permute(order), scale)  # type: ignore[no-untyped-call]
    return rounded.permute(_inverse(order))


def fake_quantize_within(x: Tensor, scale: Tensor, axis: int | None) -> Tensor:
    """The same for an ``x`` that its range covers, such as a weight whose range follows it: nothing is clipped.

    The gradient is that of the output, untouched, and nothing is kept for it.

    >>> x = torch.tensor([0.04, 0.16], requires_grad=True)
    >>> fake_quantize_within(x, torch.tensor(0.1), None).sum().backward()
    >>> x.grad
    tensor([1., 1.])
    """
    if _is_training():
        return cast(Tensor, _RoundWithin.apply(x, scale, axis))  # type: ignore[no-untyped-call]
    return cast(Tensor, quantize_dequantize(x, scale, axis))


def _is_training() -> bool:
    """Whether autograd runs step by step; a compiler or exporter sees one operator and decides what to keep for it."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


class _RoundAndMask(torch.autograd.Function):
    """``fake_quantize`` with one frozen scale: keeps one bit a value for the gradient, whether it lay inside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        rounded, mask = round_and_mask(x.contiguous(), scale)
        ctx.save_for_backward(mask)
        return rounded

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return pass_inside(gradient.contiguous(), mask), None


class _RoundWithin(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, axis: int | None) -> Tensor:
        return _quantize(x, scale, axis)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient, None, None


def round_and_mask(x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """A contiguous ``x`` rounded to steps of one scale, and a mask of what lay inside the range.

    The mask is of one bit a value, ``ceil(numel / 8)`` bytes, the lowest bit first.
    """
    if kernels := find_kernels(x):
        return kernels.round_masked(x, scale)
    rounded = _round(x, scale)
    mask = _pack_bits(_is_inside(rounded))
    return (rounded.clamp_(INT8_MIN, INT8_MAX) * scale).to(x.dtype), mask


def pass_inside(gradient: Tensor, mask: Tensor) -> Tensor:
    """A contiguous ``gradient`` times the bits of ``mask``."""
    if kernels := find_kernels(gradient):
        return kernels.pass_masked(gradient, mask)
    return gradient * _unpack_bits(mask, gradient.numel()).reshape(gradient.shape)


def _memory_order(x: Tensor) -> list[int] | None:
    """The axes of ``x`` from the farthest stride to the nearest; None where that is their own order."""
    return None if x.is_contiguous() else sorted(range(x.dim()), key=x.stride().__getitem__, reverse=True)


def _inverse(order: list[int]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)


@torch.library.custom_op("qdq::fake_quantize", mutates_args=())
def quantize_dequantize(x: Tensor, scale: Tensor, axis: int | None) -> Tensor:
    """``fake_quantize`` as the operator that is exported; its backward pass rounds once more, and can learn a scale."""
    return _quantize(x, scale, axis)


def _quantize(x: Tensor, scale: Tensor, axis: int | None) -> Tensor:
    if kernels := find_kernels(x):
        order = _memory_order(x)
        if order is None:
            return kernels.round_rows(x, scale, axis)
        if axis is None and (ordered := x.permute(order)).is_contiguous():
            return kernels.round_rows(ordered, scale, None).permute(_inverse(order))
    steps = _shape_for(scale, x, axis)
    return (_round(x, steps).clamp_(INT8_MIN, INT8_MAX) * steps).to(x.dtype)


def _shape_for(scale: Tensor, x: Tensor, axis: int | None) -> Tensor:
    if axis is None:
        return scale
    shape = [1] * x.dim()
    shape[axis] = -1
    return scale.reshape(shape)


def _round(x: Tensor, steps: Tensor) -> Tensor:
    return _divide(x, steps).round_()


def _divide(x: Tensor, steps: Tensor) -> Tensor:
    if x.dtype != torch.float32:  # a cast that hands its input back is no legal step of an operator (opcheck)
        x = x.to(torch.float32)
    return x / steps


def _is_inside(rounded: Tensor) -> Tensor:
    return (rounded >= INT8_MIN) & (rounded <= INT8_MAX)


@quantize_dequantize.register_fake
def _(x: Tensor, scale: Tensor, axis: int | None) -> Tensor:
    return torch.empty_like(x)


def _save_inputs(ctx: Any, inputs: tuple[Tensor, Tensor, int | None], output: Tensor) -> None:
    x, scale, ctx.axis = inputs
    ctx.save_for_backward(x, scale)


def _round_once_more(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
    x, scale = ctx.saved_tensors
    if ctx.needs_input_grad[1]:
        passed, slope = learn_scale(gradient, x, scale, ctx.axis)
        return passed, slope, None
    return gradient * _is_inside(_round(x, _shape_for(scale, x, ctx.axis))), None, None


quantize_dequantize.register_autograd(_round_once_more, setup_context=_save_inputs)


@torch.library.custom_op("qdq::learn_scale", mutates_args=())
def learn_scale(gradient: Tensor, x: Tensor, scale: Tensor, axis: int | None) -> tuple[Tensor, Tensor]:
    """The gradients of ``x`` and of ``scale``, from that of ``fake_quantize(x, scale, axis)``."""
    if axis is None and (kernels := find_kernels(x)):
        return kernels.learn(gradient.to(x.dtype).contiguous(), x.contiguous(), scale)
    steps = _shape_for(scale, x, axis)
    quotient = _divide(x, steps)
    rounded = quotient.round()
    inside = _is_inside(rounded)
    share = gradient.to(torch.float32) * (rounded.clamp_(INT8_MIN, INT8_MAX) - inside * quotient)
    others = [i for i in range(share.dim()) if i != axis]
    return (gradient * inside).contiguous(), share.sum(dim=others)


@learn_scale.register_fake
def _(gradient: Tensor, x: Tensor, scale: Tensor, axis: int | None) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), torch.empty_like(scale)


def _pack_bits(bits: Tensor) -> Tensor:
    """Booleans as bytes of eight, the lowest bit first.

    >>> _pack_bits(torch.tensor([True, False, True] + [False] * 5 + [True]))
    tensor([5, 1], dtype=torch.uint8)
    """
    flat = functional.pad(bits.reshape(-1).to(torch.uint8), (0, -bits.numel() % 8))
    return (flat.reshape(-1, 8) << _places(bits.device)).sum(dim=1, dtype=torch.uint8)


def _unpack_bits(packed: Tensor, count: int) -> Tensor:
    """The first ``count`` bits of ``packed`` as booleans.

    >>> _unpack_bits(torch.tensor([5], dtype=torch.uint8), 3)
    tensor([ True, False,  True])
    """
    return ((packed[:, None] >> _places(packed.device)) & 1).reshape(-1)[:count].to(torch.bool)


def _places(device: torch.device) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=device)
