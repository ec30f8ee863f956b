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
from calibration.quantize import quantize_model
from calibration.ranges import METHODS
from calibration.settings import BEST, CalibrationSettings
from qat.checkpoint import load_checkpoint
from qat.quantizer import named_quantizers
from qat.recipe import PRODUCTS, Recipe, Rule, WeightGranularity
from qat.tasks import find_task

_PLACEMENTS: tuple[tuple[Placement, WeightGranularity], ...] = (
    ("linear", "per_channel"),
    ("tensorrt", "per_channel"),
    ("tensorrt", "per_tensor"),
    ("qdqbert", "per_channel"),
)
_SHORT = {"per_channel": "channel", "per_tensor": "tensor"}
_TARGETS = {"per_channel": "onnxruntime", "per_tensor": "rtx"}
SHIPPED = "default"
"""What the rows of our own defaults are called: those of ``qdq calibrate``, preactivations among them."""

BF16 = "bf16"
"""The recipe of the float model in BF16."""

_NO_PRODUCTS = Rule(layers="*", roles=PRODUCTS, quantize=False)
"""Peers see a Linear with its bias as one operator: in matched rows what comes before the bias stays float."""


def _match(placement: Placement, weights: WeightGranularity, method: str) -> tuple[Row, Recipe]:
    name = f"{placement}/{_SHORT[weights]} {method}"
    plain = Recipe.load(placement)
    recipe = plain.model_copy(update={"weights": weights, "rules": (*plain.rules, _NO_PRODUCTS)})
    return Row(recipe=name, standing="matched", placement=placement, weights=weights), recipe


def _ship(weights: WeightGranularity) -> tuple[Row, Recipe]:
    row = Row(recipe=f"{SHIPPED}/{_SHORT[weights]} {BEST}", standing="as shipped", placement="own", weights=weights)
    return row, Recipe.load("tensorrt").model_copy(update={"weights": weights})


_RECIPES = {
    row.recipe: (row, recipe)
    for row, recipe in (
        *(_match(*placement, method) for placement, method in product(_PLACEMENTS, (*METHODS, BEST))),
        _ship("per_channel"),
        _ship("per_tensor"),
    )
}

ROWS = (
    Row(recipe=FLOAT, standing="float", placement="float", weights="-"),
    Row(recipe=BF16, standing="float", placement="float", weights="-", costs=("latency",)),
    *(row for row, _ in _RECIPES.values()),
)


class QdqModel:
    """A checkpoint, then the same one wrapped and calibrated."""

    def __init__(self, job: Job, folder: Path) -> None:
        torch.set_num_threads(job.threads)
        self._model = load_checkpoint(job.checkpoint, find_task(job.task)).model.eval()

    def infer(self, feed: Feed) -> NDArray[np.float32]:
        """The logits of one batch."""
        with torch.inference_mode():
            logits: torch.Tensor = self._model(**_to_tensors(feed)).logits
        return logits.float().numpy()

    def quantize(self, recipe: str, batches: Iterable[Feed]) -> None:
        """Splits outlier neurons where weights have one range, wraps, calibrates; or makes the float model BF16."""
        if recipe == BF16:
            torch.nn.Module.to(self._model, torch.bfloat16)
            return
        _, chosen = _RECIPES[recipe]
        quantize_model(
            self._model,
            (_to_tensors(feed) for feed in batches),
            chosen,
            target=_TARGETS[chosen.weights],
            settings=CalibrationSettings(method=recipe.split()[-1]),
        )

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
    snippets=("qdq.py", "qdq.sh"),
)

if __name__ == "__main__":
    serve(PEER)
