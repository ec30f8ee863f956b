"""Tensors on which fused kernels and the composed operator must agree, and what both are asked for."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from qat.fake_quant import fake_quantize

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "as it lies": lambda x: x,
    "transposed": lambda x: x.transpose(0, -1),
    "with gaps": lambda x: x[..., ::2],
    "expanded": lambda x: x[None].expand(3, *x.shape),
}
SHAPES = ((3, 5, 7), (1,), (0, 4), (2, 3, 17, 32), (300, 257))
ODD = (float("nan"), float("inf"), float("-inf"), -0.0, -0.001, 0.0635, -0.0645, 1e-40)


def make_values(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Values on both sides of a range of 127 * 0.0005, ties and all that is no number among them."""
    values = torch.randn(*shape) * 0.05
    flat = values.view(-1)
    flat[: len(ODD)] = torch.tensor(ODD)[: flat.numel()]
    return values.to(dtype)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same bits; every NaN is alike."""
    if one.dtype != other.dtype or one.shape != other.shape or not torch.equal(one.isnan(), other.isnan()):
        return False
    signs = torch.equal(one.signbit() | one.isnan(), other.signbit() | other.isnan())
    return signs and torch.equal(torch.nan_to_num(one), torch.nan_to_num(other))


def train(x: Tensor, scale: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    """The rounded tensor and its gradient."""
    leaf = x.detach().requires_grad_()
    y = fake_quantize(leaf, scale, None)
    y.backward(upstream)
    assert leaf.grad is not None
    return y.detach(), leaf.grad


def learn(x: Tensor, scale: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same with a learned scale, and its gradient."""
    learned = scale.clone().requires_grad_()
    leaf = x.detach().requires_grad_()
    y = fake_quantize(leaf, learned, None)
    y.backward(upstream)
    assert leaf.grad is not None
    assert learned.grad is not None
    return y.detach(), leaf.grad, learned.grad


@contextmanager
def watching_saved_tensors() -> Iterator[list[Tensor]]:
    """What autograd keeps inside the block."""
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept
