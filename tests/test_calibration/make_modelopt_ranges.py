"""Writes ``modelopt_ranges.json``: the ranges NVIDIA ModelOpt's calibrators find in ``distributions``.

Run in the environment that ``python -m benchmarks.peers prepare --only modelopt`` makes, from the repository's root:

    runs/peers/modelopt/bin/python -m tests.test_calibration.make_modelopt_ranges
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.test_calibration.distributions import NAMES, draw

FIXTURE = Path(__file__).with_name("modelopt_ranges.json")
PERCENTILES = (99.0, 99.9, 99.99)
PARTS = 4
"""Batches of the second run, the widest last, so that the histogram grows."""


def _calib() -> Any:
    return import_module("modelopt.torch.quantization.calib")  # where it is installed, which is not here


def find_ranges(name: str, parts: int) -> dict[str, Any]:
    """The ranges of every method, and the width and number of the histogram's bins."""
    batches = [torch.from_numpy(part) for part in np.array_split(draw(name), parts)]
    batches.sort(key=lambda batch: float(batch.abs().max()))
    widest = _calib().MaxCalibrator(num_bits=8, axis=None, unsigned=False)
    for batch in batches:
        widest.collect(batch)
    found: dict[str, Any] = {"max": float(widest.compute_amax())}
    for method in ("mse", "entropy"):  # each from a histogram of its own: entropy changes the one it is given
        found[method] = float(_collect(batches).compute_amax(method))
    with _arguments_in_their_places():
        found["mse, mended"] = float(_collect(batches).compute_amax("mse"))
    filled = _collect(batches)
    for percentile in PERCENTILES:
        found[f"percentile {percentile}"] = float(filled.compute_amax("percentile", percentile=percentile))
    edges = filled._calib_bin_edges
    return {**found, "bins": len(filled._calib_hist), "width": float(edges[1] - edges[0])}


@contextmanager
def _arguments_in_their_places() -> Iterator[None]:
    """Inside the block ModelOpt's search for the least squared error rounds as it means to.

    It calls ``fake_tensor_quant(centers, amax, num_bits, unsigned)``, whose third parameter has become ``bias``: 8 is
    subtracted from every value, and what remains is rounded to zero bits.
    """
    histogram = _calib().histogram
    shipped = histogram.fake_tensor_quant
    histogram.fake_tensor_quant = lambda x, amax, num_bits, unsigned: shipped(x, amax, None, num_bits, unsigned)
    try:
        yield
    finally:
        histogram.fake_tensor_quant = shipped


def _collect(batches: list[torch.Tensor]) -> Any:
    calibrator = _calib().HistogramCalibrator(num_bits=8, axis=None, unsigned=False)
    for batch in batches:
        calibrator.collect(batch)
    return calibrator


if __name__ == "__main__":
    versions = {name: version(name) for name in ("nvidia-modelopt", "torch", "numpy")}
    ranges = {name: {"one batch": find_ranges(name, 1), "batches": find_ranges(name, PARTS)} for name in NAMES}
    FIXTURE.write_text(json.dumps({"versions": versions, "ranges": ranges}, indent=1) + "\n", encoding="utf-8")
