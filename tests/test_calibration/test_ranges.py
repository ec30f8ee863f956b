"""The range methods against brute force in NumPy, on the same counts and on the values themselves."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from calibration.histogram import Histogram
from calibration.ranges import METHODS, find_range
from calibration.ranges.entropy import divergences
from calibration.ranges.mse import list_ranges, squared_errors
from calibration.settings import CalibrationSettings
from tests.oracles import clipping_divergence, int8_squared_error
from tests.tolerances import HISTOGRAM_MSE, RANGE_SUMS

Values = NDArray[np.float32]


def fill(values: Values) -> Histogram:
    histogram = Histogram()
    for part in np.array_split(values, min(3, len(values))):
        histogram.update(torch.from_numpy(part))
    return histogram


def heavy_tail(n: int = 20_000, seed: int = 0) -> Values:
    return np.random.default_rng(seed).standard_t(3, n).astype(np.float32)


def of(method: str, values: Values, percentile: float = 99.99) -> float:
    return find_range(method, fill(values), CalibrationSettings(percentile=percentile))


values_of_some_size = arrays(np.float32, st.integers(1, 60), elements=st.floats(0, 60000, width=32))


@given(values=values_of_some_size)
def test_max_is_the_largest_magnitude(values: Values) -> None:
    assert of("max", values) == values.max()


@given(values=values_of_some_size, percent=st.floats(50, 100, exclude_min=True))
def test_percentile_is_numpys_to_the_nearest_fp16_number(values: Values, percent: float) -> None:
    exact = np.percentile(values, percent, method="inverted_cdf")
    assert of("percentile", values, percent) == min(float(np.float16(exact)), float(values.max()))


@given(values=values_of_some_size, weights=st.integers(0, 99))
def test_squared_errors_are_those_of_every_value(values: Values, weights: int) -> None:
    points = np.unique(values.astype(np.float64))
    shares = np.random.default_rng(weights).random(len(points))
    tried = list_ranges(float(points.max()) + 1e-3)
    expected = np.array([int8_squared_error(points, shares, each) for each in tried])
    scale = float((shares * points**2).sum()) + 1e-9
    np.testing.assert_allclose(squared_errors(points, shares, tried) / scale, expected / scale, atol=RANGE_SUMS.value)


def test_mse_is_that_of_the_values_themselves() -> None:
    values = heavy_tail()
    found = of("mse", values)
    tried = list_ranges(float(np.abs(values).max()))
    ones = np.ones(len(values))
    errors = [int8_squared_error(np.abs(values).astype(np.float64), ones, each) for each in tried]
    assert found in tried
    assert int8_squared_error(np.abs(values).astype(np.float64), ones, found) <= min(errors) * HISTOGRAM_MSE.value
    assert found < tried[0]


@given(counts=arrays(np.float64, st.integers(128, 200), elements=st.sampled_from([0.0, 0.0, 0.5, 1.0, 3.0, 40.0])))
@settings(max_examples=30)
def test_divergences_are_those_of_the_definition(counts: NDArray[np.float64]) -> None:
    counts[-1] += 1.0
    expected = [clipping_divergence(counts, kept) for kept in range(128, len(counts) + 1)]
    np.testing.assert_allclose(divergences(counts), expected, rtol=0, atol=RANGE_SUMS.value)


def test_entropy_is_the_range_of_the_least_divergence() -> None:
    values = heavy_tail()
    histogram = fill(values)
    counts = histogram.rebin(2048)
    found = of("entropy", values)
    kept = round(found / histogram.largest * 2048)
    expected = [clipping_divergence(counts, each) for each in range(128, 2049)]
    assert expected[kept - 128] <= min(expected) + RANGE_SUMS.value
    assert found == histogram.largest * kept / 2048
    assert found < 0.9 * histogram.largest


def test_the_bin_at_zero_weighs_no_more_than_its_neighbour() -> None:
    values = heavy_tail()
    assert of("entropy", values) == of("entropy", np.append(values, np.zeros(9999, np.float32)))


@pytest.mark.parametrize("method", METHODS)
def test_nothing_but_zeros(method: str) -> None:
    assert of(method, np.zeros(7, np.float32)) == 0.0


@pytest.mark.parametrize("method", METHODS)
def test_a_constant_tensor_keeps_its_value(method: str) -> None:
    assert of(method, np.full(50, -2.5, np.float32)) == 2.5


@pytest.mark.parametrize("method", METHODS)
def test_values_beyond_fp16_are_the_largest(method: str) -> None:
    assert of(method, np.array([1e30, 1e30, 1e30], np.float32)) == pytest.approx(1e30)
