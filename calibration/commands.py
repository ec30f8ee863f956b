"""``qdq calibrate``: a float checkpoint becomes a calibrated one."""

from collections.abc import Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer

from calibration.calibrate import Calibration
from calibration.ranges import METHODS, require_method
from calibration.settings import ALL, BEST, CalibrationSettings
from calibration.stage import POOL, CalibrationStage, calibrate_checkpoint, choose_method
from qat.artefacts import require_writable
from qat.checkpoint import load_checkpoint, read_config
from qat.commands import load_quantized
from qat.console import print_json, print_table, say, show_progress
from qat.cpu import saturates_int8
from qat.data import parse_columns
from qat.errors import DataError
from qat.options import (
    BatchSizeOption,
    CheckpointArgument,
    ColumnsOption,
    JsonOption,
    LimitOption,
    MaxLengthOption,
    OutOption,
    RecipeOption,
    SetOption,
    TargetOption,
    TaskOption,
)
from qat.processes import process_group
from qat.recipe import CPU_TARGETS, Recipe, validate_settings
from qat.settings import parse_overrides, require_stages
from qat.tasks import find_task
from qat.tasks.record import TaskRecord

MethodOption = Annotated[
    str | None,
    typer.Option("--method", help=f"How ranges are found: {BEST} (default), {', '.join(METHODS)}, or {ALL}."),
]
RowsOption = Annotated[
    Path | None, typer.Option("--data", help="Rows: .jsonl, .csv, .tsv, .parquet, or a hub name; none to choose again.")
]


def calibrate_command(
    checkpoint: CheckpointArgument,
    out: OutOption,
    data: RowsOption = None,
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
    """Fill every quantizer's range from real rows; or, without data, choose among those that --method all kept.

    Example: qdq calibrate my-bert --task text-classification --data train.jsonl --out calibrated --method all
    Example: qdq calibrate calibrated --method mse --out calibrated-mse
    """
    overrides = parse_overrides(settings or [])
    require_stages(overrides, ("task", "weights", "calibration"))
    chosen = read_recipe(recipe, target, overrides.get("weights", {}))
    stage = read_calibration(method, overrides.get("calibration", {}))
    if data is None:
        print_summary(_choose(checkpoint, stage.method, out, task), as_json=as_json)
        return
    if task is None:
        raise DataError("a float checkpoint does not say its task: add --task text-classification")
    found = find_task(task).configure(overrides.get("task", {}))
    loaded = load_checkpoint(checkpoint, found)
    names = {} if columns is None else parse_columns(columns)
    wanted = min(limit or stage.samples, stage.samples)
    reading: dict[str, Any] = {"max_length": max_length, "require_labels": False}
    encode = partial(found.encode, tokenizer=loaded.tokenizer, config=loaded.model.config, **reading)
    parts = map(encode, found.stream(data, columns=names, limit=wanted, size=POOL * batch_size))
    first = next(parts)
    require_writable(out)
    with process_group() as leads, show_progress("calibrate") as advance:
        done = calibrate_checkpoint(
            loaded,
            chain([first], parts),
            CalibrationStage(
                recipe=chosen,
                target=target,
                settings=stage,
                record=TaskRecord.of(found, names, max_length, first, loaded.model.config),
                batch_size=batch_size,
            ),
            out=out,
            inputs={"checkpoint": checkpoint, "data": data},
            progress=lambda phase, done, total: advance(done, total, phase),
        )
    if not leads:
        return
    print_ranges(out, done.calibration, wanted)
    print_summary(
        {
            "out": str(out),
            "rows": done.calibration.rows,
            "tokens": done.calibration.tokens,
            "ranges": len(done.calibration.found),
        },
        as_json=as_json,
    )


def print_summary(facts: Mapping[str, object], *, as_json: bool) -> None:
    """``facts`` as the last line, where ``--json`` asks for it."""
    if as_json:
        print_json(facts)


def _choose(folder: Path, method: str, out: Path, task: str | None) -> dict[str, object]:
    if getattr(read_config(folder), "quantization_config", None) is None:
        raise DataError(f"{folder} is a float checkpoint: add --data with the rows to calibrate on")
    loaded, _, _ = load_quantized(folder, task)
    ranges = choose_method(loaded, method, out=out)
    say(f"{out}: {ranges} ranges of method {method}")
    return {"out": str(out), "method": method, "ranges": ranges}


def print_ranges(out: Path, result: Calibration, wanted: int) -> None:
    """What was read, and the widest ranges that came of it, as a table; missing rows and dead tensors are named."""
    if result.rows < wanted:
        say(f"{wanted} rows were asked for (calibration.samples), the data holds {result.rows}: all were read")
    if result.equalization is not None and result.equalization.limit is not None:
        say(result.equalization.describe())
    if result.constant:
        say(
            f"{len(result.constant)} quantizers met a single magnitude everywhere, dead or constant tensors: "
            f"{', '.join(result.constant[:3])}{', ...' if len(result.constant) > 3 else ''}"
        )
    print_table(
        f"{out}: {len(result.found)} activation ranges from {result.rows} rows, {result.tokens} tokens; the widest",
        ("quantizer", "depth", "amax"),
        [(row.name, row.depth, row.amax) for row in sorted(result.found, key=lambda row: -row.amax)[:5]],
    )


def read_recipe(recipe: str, target: str, override: dict[str, object]) -> Recipe:
    """The recipe with the granularity of its target, or the one ``--set weights=`` asks for.

    Where the target runs on the CPU and this one saturates, that is said.
    """
    by_target = Recipe.load(recipe).for_target(target)
    chosen = Recipe.from_mapping({**by_target.model_dump(), **override}, where=recipe)
    if target in CPU_TARGETS and chosen.weight_bits == 8 and saturates_int8():
        say(
            f"this CPU has AVX2 without VNNI: with weights of 8 bits target '{target}' can saturate on it, and answers "
            "differ from those of other machines; add --set weights.bits=7 if it is to run on CPUs like this one"
        )
    attention = any(rule.quantize and "attention" in rule.roles for rule in chosen.rules)
    if target == "openvino" and attention and saturates_int8():
        say(
            "this CPU has AVX2 without VNNI: OpenVINO cuts off sums of INT8 attentions on it, whatever the weights; "
            "add --recipe linear if it is to run on CPUs like this one"
        )
    return chosen


def read_calibration(method: str | None, override: dict[str, object]) -> CalibrationSettings:
    """The calibration settings from ``--method`` and ``--set calibration.``."""
    values = {**({} if method is None else {"method": method}), **override}
    settings = validate_settings(CalibrationSettings, values, where="calibration settings")
    require_method(settings.method)
    return settings
