"""The product of rounded probabilities: the bits of a plain matmul after a quantizer, and no second copy kept."""

import pytest
import torch
from torch import Tensor, matmul, nn
from torch.autograd.graph import saved_tensors_hooks

from qat.quantizer import FakeQuantizer, Unquantized
from qat.rounded_product import rounded_product
from qat.spec import PerTensor, QuantSpec

CONSTANT = QuantSpec(granularity=PerTensor(), range_source="constant")


def quantizer() -> FakeQuantizer:
    return FakeQuantizer(CONSTANT, ranges=1, name="probs")


def operands(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    scores, values = torch.randn(2, 3, 7, 7) * 4, torch.randn(2, 3, 7, 5)
    return scores.to(dtype).requires_grad_(), values.to(dtype).requires_grad_()


def plain(probs_quantizer: nn.Module, probs: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    rounded = probs_quantizer(probs)
    return matmul(rounded, values), rounded


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shown", [0.0, 0.5])
def test_answers_and_gradients_are_those_of_the_plain_product(dtype: torch.dtype, shown: float) -> None:
    found = []
    for multiply in (rounded_product, plain):
        scores, values = operands(dtype)
        product, rounded = multiply(quantizer(), scores.softmax(dim=-1), values)
        (product.square().sum() + shown * rounded.square().sum()).backward()
        found.append((product, rounded, scores.grad, values.grad))
    for ours, theirs in zip(*found, strict=True):
        assert ours is not None
        assert theirs is not None
        assert torch.equal(ours, theirs)


def test_probabilities_alone_have_gradients_too() -> None:
    found = []
    for multiply in (rounded_product, plain):
        scores, values = operands()
        multiply(quantizer(), scores.softmax(dim=-1), values)[1].square().sum().backward()
        assert scores.grad is not None
        assert values.grad is None
        found.append(scores.grad)
    assert torch.equal(*found)


def test_the_rounded_copy_is_not_kept() -> None:
    scores, values = operands()
    probs, fake = scores.softmax(dim=-1), quantizer()
    kept: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x)
        return x

    with saved_tensors_hooks(keep, lambda x: x):
        rounded_product(fake, probs, values)
    assert {x.data_ptr() for x in kept if x.numel() > 1} == {probs.data_ptr(), values.data_ptr()}


@pytest.mark.parametrize("kind", ["float", "off", "watched", "autocast", "no gradients"])
def test_elsewhere_it_is_the_plain_product(kind: str) -> None:
    fake = quantizer()
    fake.enabled = kind != "off"
    seen: list[Tensor] = []
    if kind == "watched":
        fake.register_forward_hook(lambda module, given, answer: seen.append(answer))
    scores, values = operands()
    slot = Unquantized() if kind == "float" else fake
    with torch.set_grad_enabled(kind != "no gradients"), torch.autocast("cpu", enabled=kind == "autocast"):
        probs = scores.softmax(dim=-1)
        ours, theirs = rounded_product(slot, probs, values), plain(slot, probs, values)
    assert all(map(torch.equal, ours, theirs))
    assert len(seen) == (2 if kind == "watched" else 0)
