"""The calibration stage: a loaded float checkpoint is split where it helps, wrapped, calibrated and written."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from calibration import candidates, evidence
from calibration.calibrate import Progress, ignore_progress
from calibration.candidates import choose_candidate, format_candidates, read_candidates, set_ranges
from calibration.equalize import describe_equalization
from calibration.quantize import Quantized, quantize_model
from calibration.settings import ALL, CalibrationSettings
from qat.batches import iterate_batches
from qat.checkpoint import Checkpoint, require_float, save_checkpoint
from qat.huggingface import quantization_config
from qat.origin import Origin, describe_checkpoint, digest_rows
from qat.processes import rank
from qat.recipe import Recipe
from qat.tasks.base import Encoded
from qat.tasks.record import TaskRecord


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
    rows: Encoded,
    stage: CalibrationStage,
    *,
    out: Path,
    inputs: Mapping[str, Path],
    progress: Progress = ignore_progress,
) -> Quantized:
    """What became of ``checkpoint``, which is calibrated in place and written to ``out``.

    Args:
        checkpoint: a float checkpoint.
        rows: encoded rows; the first ``settings.samples`` are read.
        stage: the recipe and its settings.
        out: the calibrated folder.
        inputs: what the manifest names as its inputs, by role.
        progress: as of ``calibrate``, which knows how many batches there are.

    Raises:
        CheckpointError: the checkpoint is quantized already.
        RangeError: activations that are not finite.
        OutputError: ``out`` cannot be written.
    """
    model, settings = checkpoint.model, stage.settings
    require_float(checkpoint)
    first = _pick_first(rows, settings)
    origin = describe_calibration(checkpoint, rows, stage)
    pad = int(checkpoint.tokenizer.pad_token_id or 0)
    total = -(-len(first) // stage.batch_size)
    # rows of like length together: half the padding, and the largest batch first
    ordered = iterate_batches(first, batch_size=stage.batch_size, pad_token_id=pad, order="length")
    batches = (batch.to_tensors() for batch in ordered)
    done = quantize_model(
        model,
        batches,
        stage.recipe,
        target=stage.target,
        settings=settings,
        progress=lambda phase, done, of: progress(phase, done, total if phase == "observe" else of),
    )
    quantization_config(model).task = stage.record.to_dict()
    found = done.calibration
    facts = {
        "origin": origin,
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
    return {
        **describe_checkpoint(checkpoint),
        "rows": digest_rows(_pick_first(rows, stage.settings)),
        "recipe": stage.recipe.model_dump(mode="json"),
        "target": stage.target,
        "settings": stage.settings.model_dump(mode="json"),
        "task": stage.record.to_dict(),
        "batch size": stage.batch_size,
    }


def _pick_first(rows: Encoded, settings: CalibrationSettings) -> Encoded:
    return rows.pick(range(min(settings.samples, len(rows))))


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
