"""The calibration stage: a loaded float checkpoint is split where it helps, wrapped, calibrated and written."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from calibration import candidates, evidence
from calibration.calibrate import Progress, ignore_progress
from calibration.candidates import choose_candidate, format_candidates, read_candidates, set_ranges
from calibration.equalize import describe_equalization
from calibration.quantize import Quantized, quantize_model
from calibration.settings import ALL, CalibrationSettings
from qat.batches import iterate_batches
from qat.checkpoint import Checkpoint, require_float, save_checkpoint
from qat.errors import DataError
from qat.huggingface import quantization_config
from qat.origin import Origin, RowDigest, describe_checkpoint, digest_rows
from qat.processes import rank
from qat.recipe import Recipe
from qat.tasks.base import Encoded
from qat.tasks.record import TaskRecord

POOL = 61
"""Batches whose rows are held and sorted by length together: a prime, so that those the probe keeps, at a distance that
is a power of two, are of every length."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationStage:
    """What to do: how to quantize, for which engine, how to find ranges, and what the folder is to remember."""

    recipe: Recipe
    target: str
    settings: CalibrationSettings
    record: TaskRecord
    batch_size: int


def calibrate_checkpoint(
    checkpoint: Checkpoint,
    parts: Iterable[Encoded],
    stage: CalibrationStage,
    *,
    out: Path,
    inputs: Mapping[str, Path],
    progress: Progress = ignore_progress,
) -> Quantized:
    """What became of ``checkpoint``, which is calibrated in place and written to ``out``.

    Args:
        checkpoint: a float checkpoint.
        parts: encoded rows, some at a time; the first ``settings.samples`` are read.
        stage: the recipe and its settings.
        out: the calibrated folder.
        inputs: what the manifest names as its inputs, by role.
        progress: as of ``calibrate``; of the batches, with those read so far.

    Raises:
        CheckpointError: the checkpoint is quantized already.
        DataError: rows with another number of choices than those before them.
        RangeError: activations that are not finite.
        OutputError: ``out`` cannot be written.
    """
    model, settings = checkpoint.model, stage.settings
    require_float(checkpoint)
    start = _describe_start(checkpoint, stage)
    batches = _Batches(parts, stage, pad_token_id=checkpoint.pad_token_id)
    done = quantize_model(
        model,
        batches,
        stage.recipe,
        target=stage.target,
        settings=settings,
        progress=lambda phase, done, of: progress(phase, done, batches.read if phase == "observe" else of),
    )
    quantization_config(model).task = stage.record.to_dict()
    found = done.calibration
    facts = {
        "origin": {**start, "rows": batches.rows.hexdigest()},
        "calibration": settings.model_dump(),
        "rows": found.rows,
        "tokens": found.tokens,
        "split": [asdict(block) for block in done.split],
        "equalization": describe_equalization(found.equalization),
        "coverage": [asdict(row) for row in done.wrapped.rows],
    }
    files = {evidence.FILE: evidence.format_evidence(found.evidence)}
    facts["candidates"] = []
    if settings.method == ALL:
        files[candidates.FILE] = format_candidates(found.candidates)
        facts["candidates"] = sorted(found.candidates)
    if rank() == 0:
        save_checkpoint(checkpoint, out, stage="calibrate", inputs=inputs, facts=facts, files=files)
    return done


def describe_calibration(checkpoint: Checkpoint, rows: Encoded, stage: CalibrationStage) -> Origin:
    """What ``calibrate_checkpoint`` makes its folder from; the same origin gives the same ranges."""
    first = rows.pick(range(min(stage.settings.samples, len(rows))))
    return {**_describe_start(checkpoint, stage), "rows": digest_rows(first)}


def _describe_start(checkpoint: Checkpoint, stage: CalibrationStage) -> dict[str, object]:
    return {
        **describe_checkpoint(checkpoint),
        "recipe": stage.recipe.model_dump(mode="json"),
        "target": stage.target,
        "settings": stage.settings.model_dump(mode="json"),
        "task": stage.record.to_dict(),
        "batch size": stage.batch_size,
    }


class _Batches:
    """The batches of the first ``samples`` rows of a stream, rows of like length together.

    That halves the padding, and the largest batch of a pool comes first.

    Attributes:
        read: how many batches the rows read so far make.
        rows: the hash of those rows.
    """

    def __init__(self, parts: Iterable[Encoded], stage: CalibrationStage, *, pad_token_id: int) -> None:
        self.read, self.rows = 0, RowDigest()
        self._parts, self._stage, self._pad = parts, stage, pad_token_id

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        size = self._stage.batch_size
        for pool in self._pools():
            self.read += -(-len(pool) // size)
            self.rows.update(pool)
            for batch in iterate_batches(pool, batch_size=size, pad_token_id=self._pad, order="length"):
                yield batch.to_tensors()

    def _pools(self) -> Iterator[Encoded]:
        left, size, axes = self._stage.settings.samples, POOL * self._stage.batch_size, self._stage.record.axes
        for part in self._parts:
            if part.axes != axes:
                raise DataError(
                    f"{part.source}: rows of {part.axes[1]} choices after rows of {axes[1]}: give all rows as many"
                )
            wanted = min(left, len(part))
            for start in range(0, wanted, size):
                yield part.pick(range(start, min(start + size, wanted)))
            left -= wanted
            if left == 0:
                return


def choose_method(checkpoint: Checkpoint, method: str, *, out: Path) -> int:
    """How many quantizers got the range of another method, from those their folder keeps; written to ``out``.

    No data is read.

    Raises:
        CheckpointError: the folder keeps none, or a damaged file.
        OutputError: ``out`` cannot be written.
        RecipeError: the method is not among them.
    """
    folder = checkpoint.folder
    stored = read_candidates(folder)
    chosen = choose_candidate(stored, method)
    set_ranges(checkpoint.model, chosen)
    facts = {"calibration": {"method": method}, "candidates": sorted(stored)}
    inputs = {"checkpoint": folder}
    save_checkpoint(checkpoint, out, stage="calibrate", inputs=inputs, facts=facts, files=kept_files(folder))
    return len(chosen)


def kept_files(folder: Path) -> dict[str, str]:
    """What a calibrated folder keeps beside its ranges, by file name; it holds for any ranges of the same model."""
    paths = [folder / name for name in (candidates.FILE, evidence.FILE)]
    return {path.name: path.read_text(encoding="utf-8") for path in paths if path.is_file()}
