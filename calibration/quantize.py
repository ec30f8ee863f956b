"""A float model becomes a calibrated one: split where it helps, wrapped, calibrated; in memory, in place."""

from collections.abc import Iterable
from dataclasses import dataclass

from transformers import PreTrainedModel

from calibration.calibrate import Batch, Calibration, Progress, calibrate, ignore_progress
from calibration.settings import CalibrationSettings
from qat.batches import iterate_batches
from qat.checkpoint import Checkpoint
from qat.huggingface import wrap
from qat.recipe import Recipe
from qat.split import SplitBlock, split_outlier_neurons
from qat.tasks.base import Encoded
from qat.wrap import WrapReport


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantized:
    """What was done: the wrapping report, the ranges, and the blocks whose outlier neurons were split."""

    wrapped: WrapReport
    calibration: Calibration
    split: tuple[SplitBlock, ...]


def quantize_model(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    recipe: Recipe,
    *,
    target: str,
    settings: CalibrationSettings | None = None,
    progress: Progress = ignore_progress,
) -> Quantized:
    """What became of ``model``, in place.

    Args:
        model: a float model of a known family.
        batches: as of ``calibrate``.
        recipe: what is quantized; where its weights have one range each, outlier neurons are split first.
        target: the engine the checkpoint is for.
        settings: how ranges are found.
        progress: as of ``calibrate``.

    Raises:
        QDQError: as ``wrap`` and ``calibrate``.
    """
    settings = settings or CalibrationSettings()
    wanted = settings.split_outliers and recipe.weights == "per_tensor"
    split = split_outlier_neurons(model) if wanted else ()
    wrapped = wrap(model, recipe, target=target)
    return Quantized(
        wrapped=wrapped, calibration=calibrate(model, batches, settings=settings, progress=progress), split=split
    )


def quantize_rows(
    checkpoint: Checkpoint,
    rows: Encoded,
    recipe: Recipe,
    *,
    target: str,
    settings: CalibrationSettings | None = None,
    batch_size: int = 32,
) -> Quantized:
    """What became of the checkpoint's model, in place: ``quantize_model`` on rows in batches of like length.

    Raises:
        QDQError: as ``quantize_model``.
    """
    batches = iterate_batches(rows, batch_size=batch_size, pad_token_id=checkpoint.pad_token_id, order="length")
    tensors = (batch.to_tensors() for batch in batches)
    return quantize_model(checkpoint.model, tensors, recipe, target=target, settings=settings)
