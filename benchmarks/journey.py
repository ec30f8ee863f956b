"""The whole way: a float checkpoint in; calibrated, fine-tuned, exported, built and measured artefacts out.

The stages run in order, each writes its artefact whole, and every figure of the report comes from the artefact itself.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx_ir as ir

from benchmarks.accuracy import measure_accuracy, share_agreeing
from benchmarks.environment import describe_environment
from benchmarks.evidence import compare_latency, describe_accuracy, describe_engine, describe_ranges, open_cpu_runners
from benchmarks.qat_cells import measure_difference, open_exact
from benchmarks.report import write_report
from benchmarks.sensitivity import describe_sensitivity
from calibration.equalize import describe_equalization
from calibration.quantize import Quantized
from calibration.sensitivity import measure_sensitivity
from calibration.settings import CalibrationSettings
from calibration.stage import CalibrationStage, calibrate_checkpoint
from export.convolutions import read_convolutions
from export.engine import BuildSettings
from export.exported import (
    ExportedModel,
    Lowering,
    require_exportable,
    trace_model,
    trace_next,
    write_exported,
)
from export.runners.base import Runner
from export.runners.load import load_runner
from export.runners.torch_runner import TorchRunner
from export.targets import find_target
from qat.artefacts import require_writable
from qat.checkpoint import Checkpoint, load_checkpoint, require_float
from qat.commands import encode_rows
from qat.errors import ExportError
from qat.families import longest_row
from qat.finetune_settings import FinetuneSettings
from qat.finetune_stage import FinetuneStage, finetune_checkpoint
from qat.huggingface import quantization_config
from qat.recipe import Recipe
from qat.scoring import Accuracy, infer_with, refer_rows, score_rows
from qat.tasks import Task, find_task
from qat.tasks.base import Encoded
from qat.tasks.record import TaskRecord

Advance = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Journey:
    """What to do: where to start, on which data, for which engine, with which settings.

    Attributes:
        checkpoint: a float checkpoint folder.
        task: Hugging Face's name of the task.
        data: rows to calibrate and fine-tune on.
        evaluation: rows to score on; never trained on.
        out: the folder for everything.
        recipe: with the weight granularity it is to have.
        target: the engine.
        precision: of what is not INT8, None for the target's own.
        settings: of the task itself.
        columns: the task's columns as the data calls them.
        max_length: tokens a row keeps, None for the most the checkpoint takes.
        batch_size: rows a batch when calibrating and scoring.
        limit: how many rows of each file to read, None for all.
        latency_shapes: (batch, sequence) of the latency table.
        latency_seconds: time spent on each of them.
        sensitivity_rows: how many training rows tell what each group of quantizers harms; None to leave that out.
    """

    checkpoint: Path
    task: str
    data: Path
    evaluation: Path
    out: Path
    recipe: Recipe
    target: str = "rtx"
    precision: str | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    max_length: int | None = None
    batch_size: int = 32
    limit: int | None = None
    calibration: CalibrationSettings = field(default_factory=CalibrationSettings)
    finetuning: FinetuneSettings = field(default_factory=FinetuneSettings)
    building: BuildSettings = field(default_factory=BuildSettings)
    latency_shapes: tuple[tuple[int, int], ...] = ((1, 16), (1, 64), (8, 64))
    latency_seconds: float = 5.0
    sensitivity_rows: int | None = None


class _Clock:
    """Names the running stage to the caller and keeps how long each one took."""

    def __init__(self, advance: Advance) -> None:
        self.seconds: dict[str, float] = {}
        self._advance = advance

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[int, int], None]]:
        """Times a block; the block gets the function that reports its progress."""
        self._advance(name, 0, 1)
        started = time.perf_counter()
        yield lambda done, total: self._advance(name, done, total)
        self.seconds[name] = round(time.perf_counter() - started, 2)


def run_journey(journey: Journey, *, advance: Advance = lambda stage, done, total: None) -> dict[str, Any]:
    """The report, also written as ``report.json`` and ``report.html`` into ``journey.out`` beside the artefacts.

    Raises:
        QDQError: whatever a stage finds wrong; artefacts of finished stages stay.
    """
    clock = _Clock(advance)
    task, target = find_task(journey.task).configure(journey.settings), find_target(journey.target)
    precision = target.choose_precision(journey.precision)
    if precision == "bf16":
        raise ExportError(
            "qdq run scores the exported graph on ONNX Runtime, which computes no BF16: run with --precision fp16, "
            "then qdq export finetuned --precision bf16"
        )
    target.require_granularity(journey.recipe.weights, precision)
    checkpoint = load_checkpoint(journey.checkpoint, task)
    require_float(checkpoint)
    journey.building.spec_for("rtx", longest=longest_row(checkpoint.model.config))
    training, evaluation = _read_rows(journey, task, checkpoint)
    require_writable(journey.out / "report.json")
    score = _scorer(journey, task, checkpoint, evaluation, clock)
    size_fp32 = sum(parameter.numel() for parameter in checkpoint.model.parameters()) * 4 / 1e6
    stages = {"fp32": score("score FP32", _run_torch(task, checkpoint, evaluation))}
    with TemporaryDirectory() as folder:
        calibrated = _calibrate(journey, task, checkpoint, training, clock)
        stages["ptq"] = score("score calibrated", _run_torch(task, checkpoint, evaluation))
        _finetune(journey, task, checkpoint, training, clock)
        stages["qat"] = score("score fine-tuned", _run_torch(task, checkpoint, evaluation))
        sensitivity = _measure_sensitivity(journey, task, checkpoint, training, clock)
        require_exportable(checkpoint.model, quantization_config(checkpoint.model), target, precision)
        with clock.stage("export"):
            graph = trace_model(checkpoint.model)
            exported, twin = _export(journey, checkpoint, graph, Lowering(target, precision), Path(folder))
        stages["onnx"] = onnx = score("score ONNX", load_runner(exported.folder, optimized=False))
        exact_runner = open_exact(graph, target.name, Path(folder))
        exact = onnx if precision == "fp32" else score("score ONNX in FP32", exact_runner)
        with clock.stage("build") as move:
            built = journey.out / "model.engine"
            engine = describe_engine(
                exported, twin, built, journey.building, lambda _, share: move(int(100 * share), 100)
            )
    report = {
        **_identity(journey, checkpoint, precision),
        "accuracy": describe_accuracy(
            stages, exact, partial(share_agreeing, task, evaluation), partial(_differ, task, evaluation)
        ),
        "latency": _measure_latency(journey, task, checkpoint, graph, evaluation, clock),
        "engine": engine,
        "size_mb": {"fp32": size_fp32, "int8": exported.onnx_path.stat().st_size / 1e6},
        "ranges": describe_ranges(calibrated.calibration.ranges, calibrated.calibration.evidence),
        "sensitivity": sensitivity,
        "coverage": [asdict(row) for row in calibrated.wrapped.rows],
        "convolutions": read_convolutions(exported.folder),
        "split_neurons": [asdict(block) for block in calibrated.split],
        "equalization": describe_equalization(calibrated.calibration.equalization),
        "environment": describe_environment(),
        "timings_s": clock.seconds,
    }
    write_report(journey.out, report)
    return report


def _identity(journey: Journey, checkpoint: Checkpoint, precision: str) -> dict[str, Any]:
    return {
        "checkpoint": str(journey.checkpoint),
        "family": str(checkpoint.model.config.model_type),
        "task": journey.task,
        "recipe": journey.recipe.name,
        "target": journey.target,
        "granularity": journey.recipe.weights,
        "precision": precision,
        "settings": {
            "calibration": journey.calibration.model_dump(),
            "finetune": journey.finetuning.model_dump(),
        },
    }


def _differ(task: Task, rows: Encoded, first: Accuracy, second: Accuracy) -> tuple[float, float]:
    return measure_difference(task, rows, first.outputs, second.outputs)


def _measure_sensitivity(
    journey: Journey, task: Task, checkpoint: Checkpoint, rows: Encoded, clock: _Clock
) -> dict[str, Any] | None:
    if journey.sensitivity_rows is None:
        return None
    some = rows.pick(range(min(journey.sensitivity_rows, len(rows))))
    pad = int(checkpoint.tokenizer.pad_token_id or 0)
    with clock.stage("measure sensitivity") as advance:
        found = measure_sensitivity(
            checkpoint.model,
            lambda model: score_rows(infer_with(model), some, task, pad_token_id=pad),
            progress=advance,
        )
    return {"rows": some.scored, **describe_sensitivity(found, None, {})}


def _measure_latency(
    journey: Journey, task: Task, checkpoint: Checkpoint, graph: ir.Model, rows: Encoded, clock: _Clock
) -> list[dict[str, Any]]:
    with clock.stage("measure latency"), open_cpu_runners(graph, find_target(journey.target).name) as runners:
        return compare_latency(
            [_run_torch(task, load_checkpoint(journey.checkpoint, task), rows), *runners],
            checkpoint,
            rows,
            shapes=journey.latency_shapes,
            seconds=journey.latency_seconds,
        )


def _export(
    journey: Journey, checkpoint: Checkpoint, graph: ir.Model, lowering: Lowering, folder: Path
) -> tuple[ExportedModel, ExportedModel]:
    exported = write_exported(
        graph,
        checkpoint.model,
        journey.out / "onnx",
        lowering=lowering,
        tokenizer=checkpoint.tokenizer,
        step=trace_next(checkpoint.model),
    )
    float_twin = replace(lowering, quantized=False)
    return exported, write_exported(graph, checkpoint.model, folder / "float", lowering=float_twin, tokenizer=None)


def _read_rows(journey: Journey, task: Task, checkpoint: Checkpoint) -> tuple[Encoded, Encoded]:
    record = TaskRecord(name=task.name, columns=dict(journey.columns), max_length=journey.max_length)
    paths = (journey.data, journey.evaluation)
    training, evaluation = (encode_rows(checkpoint, task, record, path, journey.limit) for path in paths)
    pad = int(checkpoint.tokenizer.pad_token_id or 0)
    return training, refer_rows(infer_with(checkpoint.model), evaluation, task, pad_token_id=pad)


def _run_torch(task: Task, checkpoint: Checkpoint, rows: Encoded) -> TorchRunner:
    record = TaskRecord.of(task, {}, None, rows, checkpoint.model.config)
    return TorchRunner(checkpoint.model, inputs=record.inputs, outputs=record.outputs, axes=record.axes)


def _scorer(
    journey: Journey, task: Task, checkpoint: Checkpoint, rows: Encoded, clock: _Clock
) -> Callable[[str, Runner], Accuracy]:
    def score(stage: str, runner: Runner) -> Accuracy:
        with clock.stage(stage) as advance:
            return measure_accuracy(
                runner,
                rows,
                task,
                pad_token_id=int(checkpoint.tokenizer.pad_token_id or 0),
                batch_size=journey.batch_size,
                progress=advance,
            )

    return score


def _calibrate(journey: Journey, task: Task, checkpoint: Checkpoint, rows: Encoded, clock: _Clock) -> Quantized:
    stage = CalibrationStage(
        recipe=journey.recipe,
        target=journey.target,
        settings=journey.calibration,
        record=TaskRecord.of(task, journey.columns, journey.max_length, rows, checkpoint.model.config),
        batch_size=journey.batch_size,
    )
    with clock.stage("calibrate") as advance:
        return calibrate_checkpoint(
            checkpoint,
            rows,
            stage,
            out=journey.out / "calibrated",
            inputs={"checkpoint": journey.checkpoint, "data": journey.data},
            progress=advance,
        )


def _finetune(journey: Journey, task: Task, checkpoint: Checkpoint, rows: Encoded, clock: _Clock) -> None:
    stage = FinetuneStage(settings=journey.finetuning, teacher=load_checkpoint(journey.checkpoint, task).model)
    with clock.stage("fine-tune") as advance:
        finetune_checkpoint(
            checkpoint,
            rows,
            stage,
            out=journey.out / "finetuned",
            inputs={"checkpoint": journey.out / "calibrated", "data": journey.data},
            progress=lambda step, steps, loss: advance(step, steps),
        )
