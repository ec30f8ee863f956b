"""The table of what QAT recovers: its calibrated start, its cells on disk, and what they come to together."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.qat_cells import COLUMNS, Cell, Material, Outputs, measure_difference
from calibration.settings import CalibrationSettings
from calibration.stage import CalibrationStage, calibrate_checkpoint
from qat.artefacts import write_json
from qat.checkpoint import load_checkpoint
from qat.recipe import Recipe
from qat.tasks.record import TaskRecord

_CONTROLS = [name for name, column in COLUMNS.items() if column.start == "float"]
_TARGETS = {"per_tensor": "rtx", "per_channel": "tensorrt"}


def calibrate_once(material: Material, recipe: Recipe) -> None:
    """The calibrated folder all quantized columns start from, unless it is there."""
    if (material.calibrated / "model.safetensors").is_file():
        return
    loaded = load_checkpoint(material.checkpoint, material.task)
    stage = CalibrationStage(
        recipe=recipe,
        target=_TARGETS[recipe.weights],
        settings=CalibrationSettings(),
        record=TaskRecord.of(material.task, {}, material.training.max_length, material.training, loaded.model.config),
        batch_size=32,
    )
    calibrate_checkpoint(
        loaded, [material.training], stage, out=material.calibrated, inputs={"checkpoint": material.checkpoint}
    )


def keep_cell(folder: Path, name: str, seed: int, cell: Cell) -> None:
    """Writes a cell and its answers."""
    outputs = {f"torch.{field}": x for field, x in cell.accuracy.outputs.items()}
    np.savez(folder / f"{_file_name(name, seed)}.npz", allow_pickle=False, **outputs)
    trained = None if cell.trained is None else asdict(cell.trained) | {"settings": cell.trained.settings.model_dump()}
    write_json(
        folder / f"{_file_name(name, seed)}.json",
        {
            "column": name,
            "seed": seed,
            "metrics": dict(cell.accuracy.metrics),
            "onnx": None if cell.onnx is None else dict(cell.onnx.metrics),
            "trained": trained,
        },
    )


def read_cell(folder: Path, name: str, seed: int) -> tuple[dict[str, Any], Outputs] | None:
    """A cell as it was kept, and its answers; None where it was not."""
    path = folder / f"{_file_name(name, seed)}.json"
    if not path.is_file():
        return None
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
        outputs = {key.removeprefix("torch."): arrays[key] for key in arrays.files}
    return json.loads(path.read_text(encoding="utf-8")), outputs


def _file_name(name: str, seed: int) -> str:
    return f"{name.replace(' ', '-')}.{seed}"


def summarize(material: Material, cells: Mapping[tuple[str, int], tuple[dict[str, Any], Outputs]]) -> dict[str, Any]:
    """Every cell beside the float checkpoint, and every column's mean beside it and the best control's, in percent.

    ``points`` and ``error`` are the distance to the float checkpoint and its paired standard error, ``best_points`` and
    ``best_error`` those to the best of the float columns.
    """
    base, answers = cells["fp32", 0]
    headline = next(iter(base["metrics"]))
    rows = []
    for (name, seed), (facts, outputs) in cells.items():
        points, error = measure_difference(material.task, material.scored, [outputs], [answers])
        onnx = None if facts["onnx"] is None else 100 * facts["onnx"][headline]
        row = {"column": name, "seed": seed, "value": 100 * facts["metrics"][headline], "onnx": onnx}
        steps = None if facts["trained"] is None else facts["trained"]["steps"]
        best = None if facts["trained"] is None else facts["trained"]["best_step"]
        rows.append({**row, "points": 100 * points, "error": 100 * error, "steps": steps, "best_step": best,
                     "metrics": facts["metrics"]})  # fmt: skip
    return {"metric": headline, "columns": _summarize_columns(material, cells, rows), "cells": rows}


def _summarize_columns(
    material: Material,
    cells: Mapping[tuple[str, int], tuple[dict[str, Any], Outputs]],
    rows: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    answers = {name: [outputs for (each, _), (_, outputs) in cells.items() if each == name] for name in COLUMNS}
    means = {name: float(np.mean([row["value"] for row in rows if row["column"] == name]))
             for name in COLUMNS if answers[name]}  # fmt: skip
    best = max((name for name in _CONTROLS if name in means), key=lambda name: means[name])

    @cache  # the best control may be the float checkpoint
    def differ(name: str, other: str) -> tuple[float, float]:
        points, error = measure_difference(material.task, material.scored, answers[name], answers[other])
        return 100 * points, 100 * error

    columns = []
    for name, mean in means.items():
        graphs = [row["onnx"] for row in rows if row["column"] == name and row["onnx"] is not None]
        (points, error), (best_points, best_error) = differ(name, "fp32"), differ(name, best)
        columns.append({
            "column": name, "seeds": len(answers[name]), "mean": mean,
            "onnx": float(np.mean(graphs)) if graphs else None,
            "of_fp32": 100 * mean / means["fp32"], "points": points, "error": error,
            "of_best_fp32": 100 * mean / means[best], "best_points": best_points, "best_error": best_error,
        })  # fmt: skip
    return columns


def draw_columns(columns: Sequence[Mapping[str, Any]]) -> str:
    """The means as lines of text."""
    head = f"{'column':16} {'mean':>6} {'of FP32 %':>9}  {'points':>13} {'best FP32 %':>11}  {'points':>13}"
    lines = [
        f"{each['column']:16} {each['mean']:6.2f} {each['of_fp32']:9.2f}  {each['points']:+6.2f} ± {each['error']:4.2f}"
        f" {each['of_best_fp32']:11.2f}  {each['best_points']:+6.2f} ± {each['best_error']:4.2f}"
        for each in columns
    ]
    return "\n".join([head, "-" * len(head), *lines])
