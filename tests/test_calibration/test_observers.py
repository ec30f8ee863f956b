"""The observers against NumPy, which tokens they see, and the settings they refuse."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from calibration.observers import OBSERVERS, CalibrationSettings, MaxObserver, PercentileObserver, real_tokens
from qat.errors import RecipeError
from qat.recipe import validate_settings

Magnitudes = list[NDArray[np.float32]]

batches = st.lists(
    arrays(np.float32, array_shapes(max_dims=3, max_side=6), elements=st.floats(0, 2.0**60, width=32)),
    min_size=1,
    max_size=6,
)


def flatten(data: Magnitudes) -> NDArray[np.float64]:
    return np.concatenate([magnitudes.ravel() for magnitudes in data]).astype(np.float64)


@given(data=batches)
def test_max_is_the_largest_magnitude_of_all_batches(data: Magnitudes) -> None:
    observer = OBSERVERS["max"](CalibrationSettings())
    for magnitudes in data:
        observer.update(torch.from_numpy(magnitudes))
    assert observer.amax() == flatten(data).max()


@given(data=batches, percent=st.floats(50, 100, exclude_min=True))
def test_percentile_is_numpys_within_one_bin(data: Magnitudes, percent: float) -> None:
    observer = OBSERVERS["percentile"](CalibrationSettings(method="percentile", percentile=percent))
    for magnitudes in data:
        observer.update(torch.from_numpy(magnitudes))
    values = flatten(data)
    exact = float(np.percentile(values, percent, method="inverted_cdf"))
    width = 2 * values.max() / 4096  # the histogram ends at most at twice the largest value
    assert exact <= observer.amax() <= exact + max(width, 2.0**-112)


def test_percentile_of_a_long_tail() -> None:
    values = np.random.default_rng(0).standard_cauchy(100_000).astype(np.float32)
    observer = PercentileObserver(99.9)
    for part in np.array_split(np.abs(values), 7):
        observer.update(torch.from_numpy(part))
    exact = float(np.percentile(np.abs(values), 99.9, method="inverted_cdf"))
    assert exact <= observer.amax() <= exact + 2 * float(np.abs(values).max()) / 4096
    assert observer.amax() < float(np.abs(values).max()) / 10


def test_the_whole_share_is_the_largest_value() -> None:
    observer, largest = PercentileObserver(100.0), MaxObserver()
    values = torch.from_numpy(np.random.default_rng(1).random(1000, dtype=np.float32))
    observer.update(values)
    largest.update(values)
    assert observer.amax() == largest.amax()


@given(
    x=arrays(np.float32, st.tuples(*[st.integers(1, 4)] * 4), elements=st.floats(-9, 9, width=32)),
    axis=st.sampled_from([1, 2]),
    seed=st.integers(0, 99),
)
def test_real_tokens_are_those_of_the_mask(x: NDArray[np.float32], axis: int, seed: int) -> None:
    mask = np.random.default_rng(seed).integers(0, 2, (x.shape[0], x.shape[axis]))
    expected = [
        np.abs(np.take(x[row], token, axis=axis - 1)).ravel().tolist()
        for row in range(x.shape[0])
        for token in range(x.shape[axis])
        if mask[row, token]
    ]
    found = real_tokens(torch.from_numpy(x), torch.from_numpy(mask), axis)
    assert found.tolist() == expected
    assert found.shape[0] == mask.sum()


def test_without_a_mask_every_token_is_real() -> None:
    x = torch.randn(2, 3, 4)
    assert sorted(real_tokens(x, None, 1).flatten().tolist()) == sorted(x.abs().flatten().tolist())


def test_what_is_observed_has_no_gradient() -> None:
    x = torch.randn(1, 2, 3, requires_grad=True)
    assert not real_tokens(x, torch.ones(1, 2), 1).requires_grad


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"method": "maximum"},
            "calibration settings: method: Input should be 'max' or 'percentile' ('maximum' given)",
        ),
        ({"percentile": 100.5}, "calibration settings: percentile: Input should be less than or equal to 100"),
        ({"percentile": 50}, "calibration settings: percentile: Input should be greater than 50"),
        ({"samples": 0}, "calibration settings: samples: Input should be greater than or equal to 1 (0 given)"),
        (
            {"percentil": 99.9},
            "calibration settings: unknown key 'percentil', did you mean 'percentile'? "
            "known: method, percentile, samples",
        ),
    ],
)
def test_wrong_settings(values: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        validate_settings(CalibrationSettings, values, where="calibration settings")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
