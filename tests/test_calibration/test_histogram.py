"""The doubling histogram against NumPy's over all data at once."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from calibration.histogram import Histogram

Magnitudes = list[NDArray[np.float32]]

everything = st.floats(0, 2.0**127, width=32)
usual = st.floats(0, 100, width=32)
batches = st.one_of(
    [
        st.lists(arrays(np.float32, array_shapes(max_dims=3, max_side=6), elements=each), min_size=1, max_size=6)
        for each in (everything, usual)
    ]
)


def fill(data: Magnitudes, bins: int = 4096) -> Histogram:
    histogram = Histogram(bins)
    for magnitudes in data:
        histogram.update(torch.from_numpy(magnitudes))
    return histogram


@given(data=batches, bins=st.sampled_from([8, 64, 4096]))
def test_merged_bins_are_those_of_one_pass_over_all_data(data: Magnitudes, bins: int) -> None:
    histogram = fill(data, bins)
    values = np.concatenate([magnitudes.ravel() for magnitudes in data]).astype(np.float64)
    expected, _ = np.histogram(values, bins=bins, range=(0.0, histogram.limit or 1.0))
    assert histogram.counts.tolist() == expected.tolist()
    assert histogram.largest == values.max()


@given(data=batches)
def test_the_order_of_batches_does_not_matter(data: Magnitudes) -> None:
    forward, backward = fill(data), fill(data[::-1])
    assert torch.equal(forward.counts, backward.counts)
    assert (forward.limit, forward.largest) == (backward.limit, backward.largest)


@given(data=batches)
def test_the_limit_is_the_next_power_of_two_above_the_largest(data: Magnitudes) -> None:
    histogram = fill(data)
    largest = max(float(magnitudes.max()) for magnitudes in data)
    powers = [0.0, *(2.0**exponent for exponent in range(-100, 129))]
    assert histogram.limit == (0.0 if largest == 0 else next(power for power in powers if power > largest))


@given(data=batches, percent=st.floats(50, 100))
def test_percentile_is_at_most_one_bin_above_the_order_statistic(data: Magnitudes, percent: float) -> None:
    histogram = fill(data)
    values = np.concatenate([magnitudes.ravel() for magnitudes in data]).astype(np.float64)
    exact = float(np.percentile(values, percent, method="inverted_cdf"))
    assert exact <= histogram.percentile(percent) <= exact + histogram.limit / histogram.bins


@pytest.mark.parametrize("largest", [1.0, 0.5, 2.0**-40, 2.0**20])
def test_a_power_of_two_lies_below_the_limit_it_opens(largest: float) -> None:
    histogram = fill([np.array([largest], np.float32)])
    assert histogram.limit == 2 * largest
    assert int(histogram.counts[histogram.bins // 2]) == 1


def test_zeros_seen_before_the_first_value_are_counted() -> None:
    histogram = fill([np.zeros(99, np.float32), np.array([7.0], np.float32)])
    assert int(histogram.counts[0]) == 99
    assert histogram.percentile(99.0) == 8.0 / 4096
    assert histogram.percentile(99.5) == 7.0


def test_nothing_but_zeros_gives_zero() -> None:
    assert fill([np.zeros((2, 3), np.float32)]).percentile(99.0) == 0.0


def test_memory_does_not_grow() -> None:
    histogram = fill([np.full(4, 10.0**power, np.float32) for power in range(-20, 20)])
    assert histogram.counts.shape == (4096,)
    assert int(histogram.counts.sum()) == 160


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_float_type_is_counted_as_its_value(dtype: torch.dtype) -> None:
    histogram = Histogram()
    histogram.update(torch.tensor([0.25, 1.5], dtype=dtype))
    assert (histogram.largest, histogram.limit) == (1.5, 2.0)
    assert histogram.counts.nonzero().flatten().tolist() == [512, 3072]
