"""Our ranges against those NVIDIA ModelOpt's calibrators find in the same values (``make_modelopt_ranges``).

Where ModelOpt 0.47's differ, and why:

- Percentile: it gives the lower edge of the bin that holds the order statistic, we the order statistic itself to the
  nearest FP16 number. Its bins are as wide as those of the first batch, a 2048th of that batch's largest magnitude, so
  its range depends on the order of batches; ours does not. Where the share is a whole number of values, its sums of
  rounded quotients may stop at the value after; no percentile here is.
- Entropy: the same definition (the bin at zero as its neighbour, what is clipped added to the last bin kept, infinite
  where that bin is empty, of equals the widest), so that on its histogram we find its range exactly. Our histogram
  holds FP16 numbers, which move a few counts to the next of the 2048 bins.
- Least squared error: as shipped it is no reference. It calls ``fake_tensor_quant(centers, amax, num_bits, unsigned)``,
  whose third parameter has become ``bias``; so it subtracts 8 and rounds to zero bits, and ends near the smallest range
  it tries, a sixteenth of the largest magnitude, whatever the values are. With the arguments in their places it finds
  what we find; it starts at bin 128, where we go down to a 256th, and weighs bins by their middles.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from calibration.histogram import Histogram
from calibration.ranges import find_range
from calibration.ranges.entropy import divergences
from calibration.settings import CalibrationSettings
from tests.oracles import int8_squared_error
from tests.test_calibration.distributions import NAMES, draw
from tests.tolerances import (
    MODELOPT_ENTROPY,
    MODELOPT_FP32,
    MODELOPT_MSE,
    MODELOPT_MSE_RANGE,
    MODELOPT_PERCENTILE,
)

STORED: dict[str, Any] = json.loads(Path(__file__).with_name("modelopt_ranges.json").read_text(encoding="utf-8"))
PERCENTILES = (99.0, 99.9, 99.99)
BINS = 2048

distribution = pytest.mark.parametrize("name", NAMES)
feeding = pytest.mark.parametrize("feed", ["one batch", "batches"])


def ours(name: str, method: str, percentile: float = 99.99) -> float:
    histogram = Histogram()
    histogram.update(torch.from_numpy(draw(name)))
    return find_range(method, histogram, CalibrationSettings(percentile=percentile))


def squared_error(name: str, amax: float) -> float:
    magnitudes: NDArray[np.float64] = np.abs(draw(name)).astype(np.float64)
    return int8_squared_error(magnitudes, np.ones(magnitudes.size), amax)


def test_the_fixture_says_what_made_it() -> None:
    assert STORED["versions"].keys() == {"nvidia-modelopt", "torch", "numpy"}
    assert STORED["ranges"].keys() == set(NAMES)


@distribution
@feeding
def test_max_is_modelopts_exactly(name: str, feed: str) -> None:
    assert ours(name, "max") == STORED["ranges"][name][feed]["max"]


@distribution
@feeding
@pytest.mark.parametrize("percentile", PERCENTILES)
def test_a_percentile_lies_in_modelopts_bin(name: str, feed: str, percentile: float) -> None:
    stored = STORED["ranges"][name][feed]
    found, edge = ours(name, "percentile", percentile), stored[f"percentile {percentile}"]
    rounding = MODELOPT_PERCENTILE.value * found
    assert edge - rounding <= found <= edge + stored["width"] + rounding


@distribution
def test_entropy_on_modelopts_histogram_is_modelopts_exactly(name: str) -> None:
    values = torch.from_numpy(draw(name)).abs()
    counts = torch.histc(values, bins=BINS, min=0, max=float(values.max())).numpy().astype(np.float64)
    kept = BINS - int(divergences(counts)[::-1].argmin())
    expected = STORED["ranges"][name]["one batch"]["entropy"]
    assert float(values.max()) * kept / BINS == pytest.approx(expected, rel=MODELOPT_FP32.value)


@distribution
def test_entropy_on_our_histogram_is_near_modelopts(name: str) -> None:
    stored = STORED["ranges"][name]["one batch"]
    assert abs(ours(name, "entropy") - stored["entropy"]) / stored["width"] <= MODELOPT_ENTROPY.value


@distribution
@feeding
def test_mse_is_modelopts_with_its_arguments_in_their_places(name: str, feed: str) -> None:
    found, theirs = ours(name, "mse"), STORED["ranges"][name][feed]["mse, mended"]
    assert 1 / MODELOPT_MSE_RANGE.value <= found / theirs <= MODELOPT_MSE_RANGE.value
    assert squared_error(name, found) <= MODELOPT_MSE.value * squared_error(name, theirs)


@distribution
def test_modelopts_mse_as_shipped_is_no_reference(name: str) -> None:
    stored = STORED["ranges"][name]["one batch"]
    assert stored["mse"] < stored["max"] / 15
    assert squared_error(name, stored["mse"]) > 10 * squared_error(name, stored["max"])
