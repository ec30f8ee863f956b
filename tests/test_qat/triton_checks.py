"""The Triton kernels against the composed operator: on a CUDA GPU, or in Triton's interpreter on the CPU.

``test_fused_triton.py`` runs this file in a process of its own: whether kernels are interpreted
(``TRITON_INTERPRET=1``) is fixed when Triton is imported.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from qat import fused_kernels
from qat.fake_quant import fake_quantize, fake_quantize_within, largest_magnitude, pass_inside, round_and_mask
from qat.fused_kernels import SOURCES, composed_only, find_kernels, load_kernels
from qat.fused_triton import TritonKernels, open_triton_kernels
from tests import tolerances
from tests.oracles import Floats
from tests.test_qat.fused_cases import DTYPES, LAYOUTS, learn, make_values, same_bits, train, watching_saved_tensors

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
SHAPES = ((3, 5, 7), (1,), (0, 4), (2, 3, 8, 32), (41, 57))
"""The last fill more than one program, the very last no whole number of bytes."""
SCALES = st.floats(2.0**-14, 65504.0, width=16)
STEPS = st.integers(-300, 300).map(lambda steps: steps / 2)
"""Ties, whole numbers, and both sides of the bounds."""
ANY_FLOAT = st.floats(width=32)


@pytest.fixture(autouse=True, scope="module")
def _only_triton() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(fused_kernels.VARIABLE, raising=False)
        patch.setitem(SOURCES, DEVICE, replace(SOURCES["cuda"], load=partial(open_triton_kernels, DEVICE)))
        load_kernels.cache_clear()
        yield
    load_kernels.cache_clear()


@pytest.fixture(autouse=True)
def _as_a_gpu_computes() -> Iterator[None]:
    """The interpreter computes with NumPy, which warns of what is no number."""
    with np.errstate(all="ignore"):
        yield


def make(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return make_values(shape, dtype).to(DEVICE)


def one_scale(value: float = 0.0005) -> Tensor:
    return torch.tensor(value, device=DEVICE)


def test_all_dtypes_are_computed_by_triton() -> None:
    assert [type(find_kernels(torch.ones(1, dtype=dtype, device=DEVICE))) for dtype in DTYPES] == [TritonKernels] * 3
    assert find_kernels(torch.ones(1, dtype=torch.float64, device=DEVICE)) is None


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_scale_gives_the_same_bits_forward_and_backward(dtype: torch.dtype, layout: str) -> None:
    scale = one_scale()
    for shape in SHAPES:
        x = LAYOUTS[layout](make(shape, dtype))
        upstream = torch.randn(x.shape, device=DEVICE).to(dtype)
        fused = (fake_quantize(x, scale, None), *train(x, scale, upstream), *learn(x, scale, upstream)[:2])
        with composed_only():
            composed = (fake_quantize(x, scale, None), *train(x, scale, upstream), *learn(x, scale, upstream)[:2])
        assert all(same_bits(one, other) for one, other in zip(fused, composed, strict=True)), shape


@pytest.mark.parametrize("dtype", DTYPES)
def test_channels_give_the_same_bits(dtype: torch.dtype) -> None:
    for shape in ((3, 5, 7), (2, 3, 17, 32), (5, 1), (0, 4)):
        x = make(shape, dtype)
        for axis in range(-1, x.dim()):
            scale = torch.rand(shape[axis], device=DEVICE) * 0.001 + 0.0002
            rounded = fake_quantize(x, scale, axis)
            within = fake_quantize_within(x.clone().requires_grad_(), scale, axis).detach()
            with composed_only():
                expected = fake_quantize(x, scale, axis)
            assert same_bits(rounded, expected)
            assert same_bits(within, expected)


@given(
    values=arrays(np.float32, st.integers(1, 20), elements=st.one_of(STEPS, ANY_FLOAT)),
    in_steps=st.booleans(),
    scale=SCALES,
    dtype=st.sampled_from(DTYPES),
)
def test_any_values_give_the_same_bits_and_mask(
    values: Floats, in_steps: bool, scale: float, dtype: torch.dtype
) -> None:
    x = torch.from_numpy(values).to(DEVICE)
    x = (x * scale if in_steps else x).to(dtype)
    step = one_scale(scale)
    rounded, mask = round_and_mask(x, step)
    with composed_only():
        expected, expected_mask = round_and_mask(x, step)
    assert same_bits(rounded, expected)
    assert torch.equal(mask, expected_mask)
    upstream = x.flip(0)
    passed = pass_inside(upstream, mask)
    with composed_only():
        assert same_bits(passed, pass_inside(upstream, mask))


def test_every_number_of_16_bits_is_rounded_alike() -> None:
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32, device=DEVICE).to(torch.int16)
    scale = one_scale(0.037)
    for dtype in (torch.bfloat16, torch.float16):
        x = bits.view(dtype)
        rounded, mask = round_and_mask(x, scale)
        with composed_only():
            expected, expected_mask = round_and_mask(x, scale)
        assert same_bits(rounded, expected)
        assert torch.equal(mask, expected_mask)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_magnitude_is_the_same(dtype: torch.dtype) -> None:
    odd = make((5, 40), dtype)
    for x in (torch.randn(7, 1133, device=DEVICE).to(dtype), torch.full((2, 3), -0.0, device=DEVICE).to(dtype), odd):
        for axis in (None, 0, 1):
            fused = largest_magnitude(x, axis)
            with composed_only():
                assert same_bits(fused, largest_magnitude(x, axis))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_learned_scale_gets_the_same_gradient_but_for_the_order_of_the_sum(dtype: torch.dtype) -> None:
    scale = one_scale()
    x, upstream = (torch.randn(2, 41, 57, device=DEVICE) for _ in range(2))
    x, upstream = (x * 0.05).to(dtype), upstream.to(dtype)
    fused = learn(x, scale, upstream)[2]
    with composed_only():
        composed = learn(x, scale, upstream)[2]
    largest = 128.0 * float(upstream.float().abs().sum())
    assert fused.shape == composed.shape
    assert abs(float(fused - composed)) <= tolerances.SCALE_GRADIENT.value * largest


def test_a_single_value_without_a_shape() -> None:
    x, scale, upstream = (torch.tensor(value, device=DEVICE) for value in (0.0123, 0.0005, 3.0))
    fused = train(x, scale, upstream), learn(x, scale, upstream)
    with composed_only():
        composed = train(x, scale, upstream), learn(x, scale, upstream)
    assert fused == composed


def test_training_keeps_one_bit_a_value() -> None:
    x = torch.randn(4, 100, device=DEVICE, requires_grad=True)
    with watching_saved_tensors() as kept:
        fake_quantize(x, one_scale(0.01), None)
    assert [(each.dtype, each.numel()) for each in kept] == [(torch.uint8, 50)]
