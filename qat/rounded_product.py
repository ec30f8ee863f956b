"""The product of attention's quantized probabilities and values, with the probabilities kept once for the gradients.

Softmax keeps what it gave for its own gradient; a matmul after a quantizer would keep the rounded copy as well, of
``heads x tokens x tokens`` values a row. Here the copy is rounded again in the backward pass.
"""

from typing import Any, cast

import torch
from torch import Tensor, matmul
from torch.autograd.function import once_differentiable

from qat.fake_quant import fake_quantize_within
from qat.quantizer import FakeQuantizer, Slot


def rounded_product(quantizer: Slot, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """``quantizer(left) @ right`` and ``quantizer(left)``, bit for bit, gradients included.

    Args:
        quantizer: of ``left``. Where its range is a constant that covers ``left``, and autograd runs step by step, no
            copy of the rounded tensor is kept.
        left: ``(..., rows, inner)``.
        right: ``(..., inner, columns)``.
    """
    if isinstance(quantizer, FakeQuantizer) and _is_covered(quantizer) and _keeps_copies(left, right):
        found = _RoundedProduct.apply(left, right, quantizer.scale())  # type: ignore[no-untyped-call]
        return cast("tuple[Tensor, Tensor]", found)
    rounded: Tensor = quantizer(left)
    return matmul(rounded, right), rounded


def _is_covered(quantizer: FakeQuantizer) -> bool:
    return quantizer.enabled and not quantizer.watched and quantizer.spec.range_source == "constant"


def _keeps_copies(left: Tensor, right: Tensor) -> bool:
    """Whether autograd would keep the rounded tensor as it is: not under a compiler, nor as autocast's narrow copy."""
    recorded = torch.is_grad_enabled() and left.requires_grad and not torch.compiler.is_compiling()
    return recorded and left.dtype == right.dtype and not torch.is_autocast_enabled(left.device.type)


class _RoundedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(left, right, scale)
        ctx.set_materialize_grads(False)
        rounded = fake_quantize_within(left, scale, None)
        return matmul(rounded, right), rounded

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, product: Tensor | None, rounded: Tensor | None) -> tuple[Tensor | None, Tensor | None, None]:
        left, right, scale = ctx.saved_tensors
        if product is None:
            return rounded, None, None
        of_left = matmul(product, right.transpose(-2, -1))
        of_right = matmul(fake_quantize_within(left, scale, None).transpose(-2, -1), product)
        return of_left if rounded is None else of_left + rounded, of_right, None
