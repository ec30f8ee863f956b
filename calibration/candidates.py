"""The ranges of every method from one pass: found, set, and kept beside the checkpoint so that another can be chosen.

``candidates.json`` holds, for each method, one list a quantizer with one range a depth.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from calibration.histogram import Histogram
from calibration.ranges import METHODS, find_range
from calibration.settings import ALL, CalibrationSettings
from qat.errors import CheckpointError, RecipeError, suggest
from qat.quantizer import calibrated_quantizers

FILE = "candidates.json"
Ranges = Mapping[str, Sequence[float]]
"""By the quantizer's path: one range a depth."""

Candidates = Mapping[str, Ranges]
"""The ranges by method."""


def find_candidates(histograms: Mapping[str, Sequence[Histogram]], settings: CalibrationSettings) -> Candidates:
    """The ranges of ``settings.method``, or for ``all`` those of every method; for ``best``, which searches, none."""
    names = [name for name in METHODS if settings.method in (name, ALL)]
    return {
        name: {path: [find_range(name, each, settings) for each in found] for path, found in histograms.items()}
        for name in names
    }


def set_ranges(model: nn.Module, ranges: Ranges) -> None:
    """Gives every quantizer its range.

    Raises:
        CheckpointError: the ranges belong to another model.
    """
    quantizers = dict(calibrated_quantizers(model))
    if quantizers.keys() != ranges.keys():
        odd = sorted(quantizers.keys() ^ ranges.keys())[0]
        raise CheckpointError(f"the stored ranges are not those of this model ('{odd}'): run qdq calibrate again")
    for name, quantizer in quantizers.items():
        quantizer.set_range(torch.tensor(list(ranges[name])))


def merge_depths(ranges: Ranges) -> Ranges:
    """The ranges with the widest of its depths for every depth of a quantizer.

    >>> merge_depths({"layer.ffn_quantizer": [1.0, 3.0]})
    {'layer.ffn_quantizer': [3.0, 3.0]}
    """
    return {name: [max(values)] * len(values) for name, values in ranges.items()}


def format_candidates(candidates: Candidates) -> str:
    """The text of ``candidates.json``."""
    return json.dumps({"version": 1, "methods": candidates}, indent=1, allow_nan=False) + "\n"


def read_candidates(folder: Path) -> Candidates:
    """What a calibrated folder keeps.

    Raises:
        CheckpointError: it keeps none, or a damaged file.
    """
    path = folder / FILE
    if not path.is_file():
        raise CheckpointError(
            f"{folder} keeps no candidates to choose from: calibrate the float checkpoint with --method all, "
            "or with the method you want"
        )
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return {
            str(method): {str(name): [float(value) for value in values] for name, values in ranges.items()}
            for method, ranges in stored["methods"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): calibrate the float checkpoint again") from error


def choose_candidate(candidates: Candidates, method: str) -> Ranges:
    """The ranges of one method.

    Raises:
        RecipeError: it is not among them.
    """
    if method not in candidates:
        raise RecipeError(f"method '{method}' is not among the candidates: {suggest(method, candidates)}")
    return candidates[method]
