"""INT8 fake quantization as one registered operator, and the scale it uses.

The arithmetic is ONNX's QuantizeLinear followed by DequantizeLinear with zero point 0 (ONNX operator specification,
opset 19; TensorRT developer guide, "Explicit quantization"): ``clamp(round_half_even(x / scale), -128, 127) * scale``.
The gradient of the tensor is the straight-through estimator of Bengio et al. 2013 (arXiv 1308.3432), zero where the
value was clamped; that of the scale is LSQ's (Esser et al. 2020, arXiv 1902.08153, equation 3).
"""

from typing import Any

import torch
from torch import Tensor

from qat.spec import INT8_MAX, INT8_MIN, LARGEST_SCALE, SMALLEST_SCALE, ScaleType


def scale_from_amax(amax: Tensor, scale_type: ScaleType) -> Tensor:
    """The FP32 scale of each range: ``amax / 127``, rounded to an FP16 value unless ``scale_type`` is ``float32``.

    >>> scale_from_amax(torch.tensor([12.7, 0.0]), "float16")
    tensor([9.9976e-02, 6.1035e-05])
    >>> scale_from_amax(torch.tensor([12.7]), "float32")
    tensor([0.1000])
    """
    scale = amax.to(torch.float32) / INT8_MAX
    if scale_type == "float16":
        scale = scale.clamp(SMALLEST_SCALE, LARGEST_SCALE).to(torch.float16).to(torch.float32)
    return scale.clamp(min=SMALLEST_SCALE)


@torch.library.custom_op("qdq::fake_quantize", mutates_args=())
def fake_quantize(x: Tensor, scale: Tensor, axis: int | None) -> Tensor:
    """``x`` rounded to INT8 steps of ``scale`` and back, in ``x``'s shape and dtype.

    Args:
        x: any float tensor; computed in FP32.
        scale: a scalar, or with ``axis`` a vector of ``x.shape[axis]`` positive steps.
        axis: the channel axis, or None for one scale.

    >>> fake_quantize(torch.tensor([-0.3, 0.04, 0.05, 0.15, 99.0]), torch.tensor(0.1), None)
    tensor([-0.3000,  0.0000,  0.0000,  0.2000, 12.7000])
    """
    steps = _shape_for(scale, x, axis)
    return (_round(x, steps).clamp_(INT8_MIN, INT8_MAX) * steps).to(x.dtype)


def _shape_for(scale: Tensor, x: Tensor, axis: int | None) -> Tensor:
    if axis is None:
        return scale
    shape = [1] * x.dim()
    shape[axis] = -1
    return scale.reshape(shape)


def _round(x: Tensor, steps: Tensor) -> Tensor:
    if x.dtype != torch.float32:  # a cast that hands its input back is no legal step of an operator (opcheck)
        x = x.to(torch.float32)
    return (x / steps).round_()


@fake_quantize.register_fake
def _(x: Tensor, scale: Tensor, axis: int | None) -> Tensor:
    return torch.empty_like(x)


def _save_what_backward_needs(ctx: Any, inputs: tuple[Tensor, Tensor, int | None], output: Tensor) -> None:
    x, scale, ctx.axis = inputs
    steps = _shape_for(scale, x, ctx.axis)
    rounded = _round(x, steps)
    inside = (rounded >= INT8_MIN) & (rounded <= INT8_MAX)
    slope = rounded.clamp(INT8_MIN, INT8_MAX) - inside * (x / steps) if ctx.needs_input_grad[1] else None
    ctx.save_for_backward(inside, slope)


def _pass_gradient_inside(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
    inside, slope = ctx.saved_tensors
    if slope is None:
        return gradient * inside, None, None
    share = gradient.to(torch.float32) * slope
    others = [i for i in range(share.dim()) if i != ctx.axis]
    return gradient * inside, share.sum(dim=others), None


fake_quantize.register_autograd(_pass_gradient_inside, setup_context=_save_what_backward_needs)
