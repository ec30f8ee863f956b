"""Ours: ``wrap`` and ``calibrate`` with every method there is, in every shipped recipe; and the float model."""

from collections.abc import Iterable
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.peers.job import Feed, Inside, Job
from benchmarks.peers.row import FLOAT, Peer, Placement, Row
from benchmarks.peers.worker import serve
from calibration.calibrate import calibrate
from calibration.ranges import METHODS
from calibration.settings import BEST, CalibrationSettings
from qat.checkpoint import load_checkpoint
from qat.huggingface import wrap
from qat.quantizer import named_quantizers
from qat.recipe import PRODUCTS, Recipe, Rule, WeightGranularity
from qat.split import split_outlier_neurons
from qat.tasks import find_task
from qat.wrap import WrapReport

_PLACEMENTS: tuple[tuple[Placement, WeightGranularity], ...] = (
    ("linear", "per_channel"),
    ("tensorrt", "per_channel"),
    ("tensorrt", "per_tensor"),
    ("qdqbert", "per_channel"),
)
_SHORT = {"per_channel": "channel", "per_tensor": "tensor"}
_TARGETS = {"per_channel": "onnxruntime", "per_tensor": "rtx"}


def _name_recipe(placement: Placement, weights: WeightGranularity, method: str) -> str:
    return f"{placement}/{_SHORT[weights]} {method}"


_SETTINGS = {
    _name_recipe(placement, weights, method): (placement, weights, method)
    for (placement, weights), method in product(_PLACEMENTS, (*METHODS, BEST))
}

ROWS = (
    Row(recipe=FLOAT, standing="float", placement="float", weights="-"),
    *(
        Row(recipe=name, standing="matched", placement=placement, weights=weights)
        for name, (placement, weights, _) in _SETTINGS.items()
    ),
)


_NO_PRODUCTS = Rule(layers="*", roles=PRODUCTS, quantize=False)
"""Peers see a Linear with its bias as one operator: in matched rows what comes before the bias stays float."""


class QdqModel:
    """A checkpoint, then the same one wrapped and calibrated."""

    def __init__(self, job: Job, folder: Path) -> None:
        torch.set_num_threads(job.threads)
        self._model = load_checkpoint(job.checkpoint, find_task(job.task)).model.eval()
        self._wrapped = WrapReport(())

    def infer(self, feed: Feed) -> NDArray[np.float32]:
        """The logits of one batch."""
        with torch.inference_mode():
            logits: torch.Tensor = self._model(**_to_tensors(feed)).logits
        return logits.numpy()

    def quantize(self, recipe: str, batches: Iterable[Feed]) -> None:
        """Splits outlier neurons where weights have one range, wraps, calibrates."""
        placement, weights, method = _SETTINGS[recipe]
        settings = CalibrationSettings(method=method)
        if settings.split_outliers and weights == "per_tensor":
            split_outlier_neurons(self._model)
        plain = Recipe.load(placement)
        rules = (*plain.rules, _NO_PRODUCTS)
        chosen = plain.model_copy(update={"weights": weights, "rules": rules})
        self._wrapped = wrap(self._model, chosen, target=_TARGETS[weights])
        calibrate(self._model, (_to_tensors(feed) for feed in batches), settings=settings)

    def describe(self) -> Inside:
        """Counts of the wrapped model's quantizers; an attention adds its two products."""
        found = [quantizer for _, quantizer in named_quantizers(self._model) if quantizer.enabled]
        weights = sum(quantizer.spec.range_source == "weight" for quantizer in found)
        probabilities = sum(quantizer.spec.range_source == "constant" for quantizer in found)
        return Inside(
            weights=weights,
            activations=sum(len(each.amax) for each in found if each.spec.range_source != "weight"),
            products=weights + 2 * probabilities,
            file_bytes=None,
            counted="modules",
        )


def _to_tensors(feed: Feed) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in feed.items()}


PEER = Peer(
    name="qdq",
    title="qdq",
    requirements=(),
    packages=("torch", "transformers", "numpy"),
    needs_graph=False,
    rows=ROWS,
    open=QdqModel,
)

if __name__ == "__main__":
    serve(PEER)
