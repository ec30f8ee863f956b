"""Counting in one pass against torch's operators, number by number."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from torch import Tensor

from calibration.channels import ChannelPeaks
from calibration.counting import count_tokens
from calibration.histogram import Histogram
from qat.fused_cpu import CpuKernels
from qat.fused_kernels import composed_only, find_kernels
from tests.test_qat.fused_cases import same_bits

Counted = tuple[Histogram, ChannelPeaks]


def count(parts: list[tuple[Tensor, Tensor | None]]) -> Counted:
    histogram, channels = Histogram(), ChannelPeaks()
    for x, real in parts:
        count_tokens(x, real, histogram, channels)
    return histogram, channels


def require_same(parts: list[tuple[Tensor, Tensor | None]]) -> None:
    histogram, channels = count(parts)
    with composed_only():
        other, others = count(parts)
    assert torch.equal(histogram.counts, other.counts)
    assert same_bits(histogram.peak, other.peak)
    assert channels.read(1e9).tolist() == others.read(1e9).tolist()


@given(
    values=arrays(
        "float32", array_shapes(min_dims=2, max_dims=2, max_side=21), elements=st.floats(-7e4, 7e4, width=32)
    ),
    data=st.data(),
)
def test_finite_values_count_as_with_torchs_operators(values: object, data: st.DataObject) -> None:
    x = torch.as_tensor(values)
    assert isinstance(find_kernels(x), CpuKernels)
    listed = data.draw(st.lists(st.integers(0, len(x) - 1), min_size=1, max_size=8, unique=True))
    require_same([(x, None), (x, torch.tensor(sorted(listed)))])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (64, 8), (450, 256), (70, 1025)])
def test_every_width_and_number_of_threads_counts_the_same(shape: tuple[int, int], dtype: torch.dtype) -> None:
    x = (torch.randn(shape) * torch.logspace(-9, 5, shape[1])).to(dtype)
    threads = torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            require_same([(x, None), (x.flip(0), torch.arange(0, len(x), 2)), (x.t().contiguous().t(), None)])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_value_that_is_not_finite_shows_in_the_largest(value: float) -> None:
    x = torch.ones(5, 9)
    x[3, 8] = value
    histogram, _ = count([(x, None), (torch.ones(5, 9), None)])
    assert not histogram.peak.isfinite()
    hidden, _ = count([(x, torch.tensor([0, 1, 2, 4]))])
    assert hidden.largest == 1.0


def test_what_is_counted_after_a_merge_leaves_the_other_as_it_was() -> None:
    _, other = count([(torch.ones(2, 3), None)])
    own = ChannelPeaks()
    own.merge(other)
    count_tokens(torch.full((2, 3), 7.0), None, Histogram(), own)
    assert (own.read(9.0).tolist(), other.read(9.0).tolist()) == ([7.0] * 3, [1.0] * 3)
