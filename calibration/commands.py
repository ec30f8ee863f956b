"""``qdq calibrate``: a float checkpoint becomes a calibrated one."""

from pathlib import Path
from typing import Annotated

import typer

from calibration.observers import CalibrationSettings
from calibration.stage import CalibrationStage, calibrate_checkpoint
from qat.artefacts import require_writable
from qat.checkpoint import load_checkpoint
from qat.console import print_json, print_table, show_progress
from qat.data import parse_columns
from qat.errors import DataError
from qat.options import (
    BatchSizeOption,
    CheckpointArgument,
    ColumnsOption,
    DataOption,
    JsonOption,
    LimitOption,
    MaxLengthOption,
    OutOption,
    RecipeOption,
    SetOption,
    TargetOption,
    TaskOption,
)
from qat.recipe import Recipe, validate_settings
from qat.settings import parse_overrides, require_stages
from qat.tasks import find_task
from qat.tasks.record import TaskRecord

MethodOption = Annotated[str | None, typer.Option("--method", help="How ranges are found: max or percentile.")]


def calibrate_command(
    checkpoint: CheckpointArgument,
    data: DataOption,
    out: OutOption,
    task: TaskOption = None,
    recipe: RecipeOption = "tensorrt",
    target: TargetOption = "rtx",
    method: MethodOption = None,
    columns: ColumnsOption = None,
    max_length: MaxLengthOption = None,
    batch_size: BatchSizeOption = 32,
    limit: LimitOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fill every quantizer's range from real rows.

    Example: qdq calibrate my-bert --task text-classification --data train.jsonl --out calibrated
    """
    overrides = parse_overrides(settings or [])
    require_stages(overrides, ("weights", "calibration"))
    chosen = read_recipe(recipe, target, overrides.get("weights", {}))
    stage = read_calibration(method, overrides.get("calibration", {}))
    if task is None:
        raise DataError("a float checkpoint does not say its task: add --task text-classification")
    found = find_task(task)
    loaded = load_checkpoint(checkpoint, found)
    names = {} if columns is None else parse_columns(columns)
    rows = found.load(data, columns=names, limit=min(limit or stage.samples, stage.samples), require_labels=False)
    encoded = found.encode(
        rows, tokenizer=loaded.tokenizer, config=loaded.model.config, max_length=max_length, require_labels=False
    )
    require_writable(out)
    with show_progress("calibrate") as advance:
        done = calibrate_checkpoint(
            loaded,
            encoded,
            CalibrationStage(
                recipe=chosen,
                target=target,
                settings=stage,
                record=TaskRecord.of(found, names, max_length, encoded),
                batch_size=batch_size,
            ),
            out=out,
            inputs={"checkpoint": checkpoint, "data": Path(data)},
            progress=advance,
        )
    result = done.calibration
    ranges = [row for row in result.ranges if row.source == "calibrated"]
    largest = sorted(ranges, key=lambda row: -row.amax)[:5]
    print_table(
        f"{out}: {len(ranges)} activation ranges from {result.rows} rows, {result.tokens} tokens; the widest",
        ("quantizer", "depth", "amax"),
        [(row.name, row.depth, row.amax) for row in largest],
    )
    if as_json:
        print_json({"out": str(out), "rows": result.rows, "tokens": result.tokens, "ranges": len(ranges)})


def read_recipe(recipe: str, target: str, override: dict[str, object]) -> Recipe:
    """The recipe with the granularity of its target, or the one ``--set weights=`` asks for."""
    chosen = Recipe.load(recipe).for_target(target)
    return Recipe.from_mapping({**chosen.model_dump(), **override}, where=recipe)


def read_calibration(method: str | None, override: dict[str, object]) -> CalibrationSettings:
    """The calibration settings from ``--method`` and ``--set calibration.``."""
    values = {**({} if method is None else {"method": method}), **override}
    return validate_settings(CalibrationSettings, values, where="calibration settings")
