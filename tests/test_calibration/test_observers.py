"""Which tokens observers see, and the settings they refuse."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from calibration.ranges import require_method
from calibration.settings import CalibrationSettings
from qat.errors import RecipeError
from qat.padding import find_real, real_tokens
from qat.recipe import validate_settings


@given(
    x=arrays(np.float32, st.tuples(*[st.integers(1, 4)] * 4), elements=st.floats(-9, 9, width=32)),
    axis=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 99),
)
def test_real_tokens_are_those_of_the_mask(x: NDArray[np.float32], axis: int, seed: int) -> None:
    mask = np.random.default_rng(seed).integers(0, 2, (x.shape[0], x.shape[axis]))
    expected = [
        np.take(x[row], token, axis=axis - 1).ravel().tolist()
        for row in range(x.shape[0])
        for token in range(x.shape[axis])
        if mask[row, token]
    ]
    found = real_tokens(torch.from_numpy(x), find_real(torch.from_numpy(mask)), axis)
    assert found.tolist() == expected
    assert found.shape[0] == mask.sum()


def test_without_a_mask_every_token_is_real() -> None:
    x = torch.randn(2, 3, 4)
    assert find_real(None) is None
    assert torch.equal(real_tokens(x, None, 1), x.reshape(6, 4))


def test_what_is_observed_has_no_gradient() -> None:
    x = torch.randn(1, 2, 3, requires_grad=True)
    assert not real_tokens(x, find_real(torch.tensor([[1, 0]])), 1).requires_grad


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"percentile": 100.5}, "calibration settings: percentile: Input should be less than or equal to 100"),
        ({"percentile": 50}, "calibration settings: percentile: Input should be greater than 50"),
        ({"samples": 0}, "calibration settings: samples: Input should be greater than or equal to 1 (0 given)"),
        (
            {"percentil": 99.9},
            "calibration settings: unknown key 'percentil', did you mean 'percentile'? "
            "known: depths, equalize, method, percentile, samples, search_rows",
        ),
    ],
)
def test_wrong_settings(values: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        validate_settings(CalibrationSettings, values, where="calibration settings")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_an_unknown_method() -> None:
    with pytest.raises(RecipeError) as caught:
        require_method("entropie")
    assert str(caught.value) == (
        "calibration method 'entropie' is unknown: did you mean 'entropy'? "
        "known: all, best, entropy, max, mse, percentile"
    )
