"""The histogram over FP16 numbers against NumPy's count of all data at once."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from calibration.histogram import Histogram
from tests.oracles import linear_counts

Values = list[NDArray[np.float32]]

everything = st.floats(-(2.0**100), 2.0**100, width=32)
usual = st.floats(-100, 100, width=32)
batches = st.one_of(
    [
        st.lists(arrays(np.float32, array_shapes(max_dims=3, max_side=6), elements=each), min_size=1, max_size=6)
        for each in (everything, usual)
    ]
)


def fill(data: Values) -> Histogram:
    histogram = Histogram()
    for values in data:
        histogram.update(torch.from_numpy(values))
    return histogram


def magnitudes(data: Values) -> NDArray[np.float32]:
    return np.asarray(np.abs(np.concatenate([values.ravel() for values in data])))


def as_half(values: NDArray[np.float32]) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):
        return np.asarray(np.minimum(values.astype(np.float16).astype(np.float64), values.max()))


@given(data=batches)
def test_every_value_counts_at_its_nearest_fp16_number(data: Values) -> None:
    histogram = fill(data)
    expected, times = np.unique(as_half(magnitudes(data)), return_counts=True)
    values, counts = histogram.points()
    merged = {value: counts[values == value].sum() for value in np.unique(values)}
    assert merged == dict(zip(expected.tolist(), times.tolist(), strict=True))
    assert histogram.largest == magnitudes(data).max()


@given(data=batches)
def test_the_order_of_batches_does_not_matter(data: Values) -> None:
    forward, backward = fill(data), fill(data[::-1])
    assert torch.equal(forward.counts, backward.counts)
    assert forward.largest == backward.largest


@given(data=batches, cut=st.integers(0, 6))
def test_merged_parts_are_the_whole(data: Values, cut: int) -> None:
    whole, merged = fill(data), fill(data[:cut])
    merged.merge(fill(data[cut:]))
    assert torch.equal(merged.counts, whole.counts)
    assert merged.largest == whole.largest


@given(
    data=st.lists(arrays(np.float32, st.integers(1, 40), elements=st.floats(2.0**-30, 60000, width=32)), min_size=1),
    bins=st.sampled_from([4, 128, 2048]),
)
def test_equal_bins_share_what_lies_across_their_edges(data: Values, bins: int) -> None:
    found = fill(data).rebin(bins)
    np.testing.assert_allclose(found, linear_counts(magnitudes(data), bins), rtol=1e-9, atol=1e-9)
    assert found.sum() == pytest.approx(magnitudes(data).size)


def test_memory_does_not_grow() -> None:
    histogram = fill([np.full(4, 10.0**power, np.float32) for power in range(-20, 20)])
    assert histogram.counts.shape == (2**15,)
    assert int(histogram.counts.sum()) == 160


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_float_type_is_counted_as_its_value(dtype: torch.dtype) -> None:
    histogram = Histogram()
    x = torch.tensor([0.25, -1.5], dtype=dtype)
    histogram.update(x)
    assert histogram.largest == 1.5
    assert [each.tolist() for each in histogram.points()] == [[0.25, 1.5], [1.0, 1.0]]
    assert x.tolist() == [0.25, -1.5]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_shows_in_the_largest(value: float) -> None:
    histogram = Histogram()
    histogram.update(torch.tensor([1.0, value]))
    histogram.update(torch.tensor([2.0]))
    assert not np.isfinite(histogram.largest)
