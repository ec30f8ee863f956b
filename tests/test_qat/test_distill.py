"""The distillation loss and its gradient against NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from qat.distill import distillation_loss
from tests.tolerances import DISTILLATION

shapes = st.tuples(st.integers(1, 5), st.integers(2, 7))
temperatures = st.floats(0.5, 8)


def logits_of(shape: tuple[int, int], seed: int, size: float = 4.0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32).astype(np.float64) * size


def soften(logits: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    powers = np.exp((logits - logits.max(axis=1, keepdims=True)) / temperature)
    softened: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return softened


def oracle(student: NDArray[np.float64], teacher: NDArray[np.float64], temperature: float) -> float:
    p, q = soften(teacher, temperature), soften(student, temperature)
    return float(temperature**2 * (p * np.log(p / q)).sum(axis=1).mean())


@given(shape=shapes, seed=st.integers(0, 999), temperature=temperatures)
def test_loss_is_the_scaled_divergence_of_softened_logits(
    shape: tuple[int, int], seed: int, temperature: float
) -> None:
    student, teacher = logits_of(shape, seed), logits_of(shape, seed + 1000)
    found = distillation_loss(torch.from_numpy(student), torch.from_numpy(teacher), temperature)
    expected = oracle(student, teacher, temperature)
    assert float(found) == pytest.approx(expected, rel=DISTILLATION.value, abs=DISTILLATION.value)


@given(shape=shapes, seed=st.integers(0, 999), temperature=temperatures)
def test_gradient_is_the_difference_of_the_softened_answers(
    shape: tuple[int, int], seed: int, temperature: float
) -> None:
    teacher = logits_of(shape, seed + 1000)
    student = torch.from_numpy(logits_of(shape, seed)).requires_grad_()
    distillation_loss(student, torch.from_numpy(teacher), temperature).backward()
    expected = temperature * (soften(student.detach().numpy(), temperature) - soften(teacher, temperature)) / shape[0]
    assert student.grad is not None
    np.testing.assert_allclose(student.grad.numpy(), expected, rtol=0, atol=DISTILLATION.value)


@given(values=arrays(np.float32, shapes, elements=st.floats(-30, 30, width=32)), temperature=temperatures)
def test_nothing_to_learn_from_an_equal_teacher(values: NDArray[np.float32], temperature: float) -> None:
    student = torch.from_numpy(values).requires_grad_()
    loss = distillation_loss(student, torch.from_numpy(values.copy()), temperature)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert student.grad is not None
    assert float(student.grad.abs().max()) <= DISTILLATION.value


def test_adding_a_constant_to_the_logits_changes_nothing() -> None:
    student, teacher = (torch.from_numpy(logits_of((3, 4), seed)) for seed in (1, 2))
    expected = float(distillation_loss(student, teacher, 2.0))
    assert float(distillation_loss(student + 3, teacher - 5, 2.0)) == pytest.approx(expected, rel=DISTILLATION.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_compared_in_single(dtype: torch.dtype) -> None:
    student, teacher = (torch.from_numpy(logits_of((4, 5), seed)).to(dtype) for seed in (3, 4))
    found = distillation_loss(student, teacher, 2.0)
    assert found.dtype == torch.float32
    assert torch.equal(found, distillation_loss(student.float(), teacher.float(), 2.0))
