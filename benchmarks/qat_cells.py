"""The cells of the QAT table: what is trained from where, and what one of them comes to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from transformers import PreTrainedModel

from benchmarks.accuracy import measure_accuracy
from export.exported import Lowering, lower_graph, trace_model
from export.runners.onnxruntime_runner import OnnxRuntimeRunner
from export.targets import find_target
from qat.checkpoint import load_checkpoint
from qat.finetune import Finetuning, TrainingPlan, train_rows
from qat.finetune_settings import FinetuneSettings
from qat.huggingface import quantization_config
from qat.range_training import RangeMode
from qat.scoring import Accuracy, infer_with, score_rows
from qat.tasks import Task
from qat.tasks.base import Encoded

Start = Literal["float", "calibrated"]
Lesson = Literal["none", "labels", "teacher"]
Outputs = Mapping[str, NDArray[np.float32]]

_BLOCKS = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """What one column of the table trains.

    Attributes:
        start: the float checkpoint, or the calibrated one.
        lesson: what it learns from: nothing, the labels, or the float checkpoint as well.
        ranges: what happens to activation ranges.
    """

    start: Start
    lesson: Lesson
    ranges: RangeMode = "frozen"


COLUMNS: dict[str, Column] = {
    "fp32": Column(start="float", lesson="none"),
    "fp32 trained on": Column(start="float", lesson="labels"),
    "fp32 distilled": Column(start="float", lesson="teacher"),
    "ptq": Column(start="calibrated", lesson="none"),
    "qat": Column(start="calibrated", lesson="labels"),
    "lsq": Column(start="calibrated", lesson="labels", ranges="learned"),
    "qat distilled": Column(start="calibrated", lesson="teacher"),
    "lsq distilled": Column(start="calibrated", lesson="teacher", ranges="learned"),
}


@dataclass(frozen=True, kw_only=True)
class Material:
    """What every cell of a table shares.

    Attributes:
        checkpoint: the float folder.
        calibrated: the calibrated folder made of it.
        task: its task.
        training: encoded rows with labels.
        scored: the rows reported, never trained on, never chosen by.
        settings: the schedule; the seed is the cell's.
    """

    checkpoint: Path
    calibrated: Path
    task: Task
    training: Encoded = field(repr=False)
    scored: Encoded = field(repr=False)
    settings: FinetuneSettings


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What one column came to under one seed.

    Attributes:
        accuracy: of the torch model.
        onnx: of its export on ONNX Runtime, all that is not INT8 in FP32; None for float columns.
        trained: what training did; None where nothing was trained.
    """

    accuracy: Accuracy
    onnx: Accuracy | None
    trained: Finetuning | None


def run_cell(material: Material, column: Column, seed: int) -> Cell:
    """The cell of a column under a seed, from the folders on disk.

    Raises:
        QDQError: as training, export or scoring do.
    """
    task = material.task
    loaded = load_checkpoint(material.checkpoint if column.start == "float" else material.calibrated, task)
    pad = loaded.pad_token_id
    trained = None
    if column.lesson != "none":
        plan = TrainingPlan(
            settings=material.settings.model_copy(update={"seed": seed, "ranges": column.ranges}),
            pad_token_id=pad,
            teacher=load_checkpoint(material.checkpoint, task).model if column.lesson == "teacher" else None,
            quantized=column.start == "calibrated",
        )
        trained = train_rows(loaded.model, material.training, plan)
    accuracy = score_rows(infer_with(loaded.model), material.scored, task, pad_token_id=pad)
    onnx = None if column.start == "float" else _score_export(loaded.model, material, pad)
    return Cell(accuracy=accuracy, onnx=onnx, trained=trained)


def _score_export(model: PreTrainedModel, material: Material, pad: int) -> Accuracy:
    with TemporaryDirectory() as folder:
        runner = open_exact(trace_model(model), quantization_config(model).target, Path(folder))
        return measure_accuracy(runner, material.scored, material.task, pad_token_id=pad)


def open_exact(graph: ir.Model, target: str, folder: Path) -> OnnxRuntimeRunner:
    """ONNX Runtime on a traced graph as ``target`` lowers it, its rest in FP32; the file goes to ``folder``."""
    path = folder / "exact.onnx"
    ir.save(lower_graph(graph, Lowering(find_target(target), "fp32")), path)
    return OnnxRuntimeRunner(path, optimized=False)


def measure_difference(
    task: Task, rows: Encoded, first: Sequence[Outputs], second: Sequence[Outputs]
) -> tuple[float, float]:
    """The mean headline of ``first`` minus that of ``second`` on the same rows, and its paired standard error.

    The error is that of the grouped jackknife (Efron and Tibshirani 1993, section 11.5): the difference is taken again
    with each of 40 blocks of rows left out, for any metric there is. It tells what other rows would change, not what
    other seeds would.

    Args:
        task: whose first metric is the headline.
        rows: what was answered, with labels.
        first: the answers of one model or of several, such as those of several seeds.
        second: those they are compared with.
    """

    def score(outputs: Outputs, index: NDArray[np.int64], part: Encoded) -> float:
        return next(iter(task.score({name: x[index] for name, x in outputs.items()}, part).values()))

    def differ(index: NDArray[np.int64]) -> float:
        part = rows.pick(map(int, index))
        means = [np.mean([score(outputs, index, part) for outputs in side]) for side in (first, second)]
        return float(means[0] - means[1])

    every = np.random.default_rng(0).permutation(len(rows))
    blocks = np.array_split(every, min(_BLOCKS, len(rows)))
    left = np.array([differ(np.setdiff1d(every, block)) for block in blocks])
    count = len(blocks)
    error = np.sqrt((count - 1) / count * np.square(left - left.mean()).sum())
    return differ(np.sort(every)), float(error)
