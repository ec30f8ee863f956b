"""The whole way: a float checkpoint in; calibrated, fine-tuned, exported, built and measured artefacts out.

The stages run in order, each writes its artefact whole, and every figure of the report comes from the artefact itself.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir as ir

from benchmarks.accuracy import measure_accuracy, share_agreeing
from benchmarks.environment import describe_environment
from benchmarks.evidence import compare_latency, describe_accuracy, describe_engine, describe_ranges, open_cpu_runners
from benchmarks.qat_cells import measure_difference, open_exact
from benchmarks.report import JSON_NAME, write_report
from benchmarks.sensitivity import describe_sensitivity
from benchmarks.stages import Advance, Move, Stages
from calibration.evidence import read_evidence
from calibration.range_rows import list_ranges
from calibration.sensitivity import measure_sensitivity
from calibration.settings import CalibrationSettings
from calibration.stage import CalibrationStage, calibrate_checkpoint, describe_calibration
from export.convolutions import read_convolutions
from export.engine import BuildSettings
from export.exported import (
    ExportedModel,
    Lowering,
    describe_export,
    require_exportable,
    trace_model,
    trace_next,
    write_exported,
)
from export.runners.base import Runner
from export.runners.load import load_runner
from export.runners.torch_runner import TorchRunner
from export.targets import find_target
from qat.artefacts import read_manifest, require_writable
from qat.checkpoint import Checkpoint, load_checkpoint, require_float
from qat.commands import encode_rows
from qat.errors import ExportError
from qat.families import longest_row
from qat.finetune_settings import FinetuneSettings
from qat.finetune_stage import FinetuneStage, checkpoints_beside, describe_training, finetune_checkpoint
from qat.huggingface import quantization_config
from qat.locks import hold_folder
from qat.recipe import Recipe
from qat.scoring import Accuracy, infer_with, refer_rows, score_rows
from qat.staging import staging_folder
from qat.tasks import Task, find_task
from qat.tasks.base import Encoded
from qat.tasks.record import TaskRecord
from qat.training_run import TrainingRun, forget_run, require_uninterrupted


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
        resume: whether finished stages are taken as they are, where what they would make is there, and an interrupted
            fine-tuning goes on.
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
    resume: bool = False
    sensitivity_rows: int | None = None

    @property
    def finetuned(self) -> Path:
        """The fine-tuned folder."""
        return self.out / "finetuned"

    @property
    def training(self) -> TrainingRun:
        """Where fine-tuning keeps its checkpoints."""
        return TrainingRun(checkpoints_beside(self.finetuned), self.resume)


def run_journey(journey: Journey, *, advance: Advance = lambda stage, done, total: None) -> dict[str, Any]:
    """The report, also written as ``report.json`` and ``report.html`` into ``journey.out`` beside the artefacts.

    Raises:
        CheckpointError: a fine-tuning was interrupted there, and the journey does not resume or is another one.
        OutputError: ``journey.out`` cannot be written, or another process is at it.
        QDQError: whatever a stage finds wrong; artefacts of finished stages stay.
    """
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
    rows = _read_rows(journey, task, checkpoint)
    require_writable(journey.out / JSON_NAME)
    with hold_folder(journey.out), staging_folder(journey.out / "graphs") as scratch:
        require_uninterrupted(journey.training)
        report = _travel(journey, checkpoint, _Way(task, *rows, Lowering(target, precision), scratch), advance)
        write_report(journey.out, report)
    return report


@dataclass(frozen=True, slots=True)
class _Way:
    """What every stage works with: the task and its rows, how graphs are lowered, where those lie that nobody keeps."""

    task: Task
    training: Encoded
    evaluation: Encoded
    lowering: Lowering
    scratch: Path

    def run_torch(self, checkpoint: Checkpoint) -> TorchRunner:
        """The model itself."""
        record = TaskRecord.of(self.task, {}, None, self.evaluation, checkpoint.model.config)
        return TorchRunner(checkpoint.model, inputs=record.inputs, outputs=record.outputs, axes=record.axes)


def _travel(journey: Journey, checkpoint: Checkpoint, way: _Way, advance: Advance) -> dict[str, Any]:
    stages = Stages(advance, resume=journey.resume)
    target, precision = way.lowering.target.name, way.lowering.precision
    score = _scorer(journey, way, stages, pad_token_id=checkpoint.pad_token_id)
    size_fp32 = sum(parameter.numel() for parameter in checkpoint.model.parameters()) * 4 / 1e6
    found = {"fp32": score("score FP32", way.run_torch(checkpoint))}
    checkpoint = _calibrate(journey, way, checkpoint, stages)
    found["ptq"] = score("score calibrated", way.run_torch(checkpoint))
    told = _describe_calibration(checkpoint)
    checkpoint = _finetune(journey, way, checkpoint, stages)
    found["qat"] = score("score fine-tuned", way.run_torch(checkpoint))
    told["sensitivity"] = _measure_sensitivity(journey, way, checkpoint, stages)
    require_exportable(checkpoint.model, quantization_config(checkpoint.model), way.lowering.target, precision)
    with stages.stage("trace"):
        graph = trace_model(checkpoint.model)
    exported, twin = _export(journey, way, checkpoint, graph, stages)
    found["onnx"] = onnx = score("score ONNX", load_runner(exported.folder, optimized=False))
    exact_runner = open_exact(graph, target, way.scratch)
    exact = onnx if precision == "fp32" else score("score ONNX in FP32", exact_runner)
    with stages.stage("build") as move:
        built = journey.out / "model.engine"
        engine = describe_engine(exported, twin, built, journey.building, lambda _, share: move(int(100 * share), 100))
    return {
        **_identity(journey, checkpoint, precision),
        "accuracy": describe_accuracy(
            found, exact, partial(share_agreeing, way.task, way.evaluation), partial(_differ, way.task, way.evaluation)
        ),
        "latency": _measure_latency(journey, way, checkpoint, graph, stages),
        "engine": engine,
        "size_mb": {"fp32": size_fp32, "int8": exported.onnx_path.stat().st_size / 1e6},
        **told,
        "convolutions": read_convolutions(exported.folder),
        "environment": describe_environment(),
        "timings_s": stages.seconds,
    }


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


def _describe_calibration(calibrated: Checkpoint) -> dict[str, Any]:
    """What the report says of a calibrated folder, from what lies in it."""
    manifest = read_manifest(calibrated.folder)
    return {
        "ranges": describe_ranges(list(list_ranges(calibrated.model)), read_evidence(calibrated.folder)),
        "coverage": manifest["coverage"],
        "split_neurons": manifest["split"],
        "equalization": manifest["equalization"],
    }


def _differ(task: Task, rows: Encoded, first: Accuracy, second: Accuracy) -> tuple[float, float]:
    return measure_difference(task, rows, [first.outputs], [second.outputs])


def _measure_sensitivity(journey: Journey, way: _Way, checkpoint: Checkpoint, stages: Stages) -> dict[str, Any] | None:
    if journey.sensitivity_rows is None:
        return None
    some = way.training.pick(range(min(journey.sensitivity_rows, len(way.training))))
    pad = checkpoint.pad_token_id
    with stages.stage("measure sensitivity") as move:
        found = measure_sensitivity(
            checkpoint.model,
            lambda model: score_rows(infer_with(model), some, way.task, pad_token_id=pad),
            progress=move,
        )
    return {"rows": some.scored, **describe_sensitivity(found, None, {})}


def _measure_latency(
    journey: Journey, way: _Way, checkpoint: Checkpoint, graph: ir.Model, stages: Stages
) -> list[dict[str, Any]]:
    with stages.stage("measure latency") as move, open_cpu_runners(graph, way.lowering.target.name) as runners:
        return compare_latency(
            [way.run_torch(load_checkpoint(journey.checkpoint, way.task)), *runners],
            checkpoint,
            way.evaluation,
            shapes=journey.latency_shapes,
            seconds=journey.latency_seconds,
            progress=move,
        )


def _read_rows(journey: Journey, task: Task, checkpoint: Checkpoint) -> tuple[Encoded, Encoded]:
    record = TaskRecord(name=task.name, columns=dict(journey.columns), max_length=journey.max_length)
    paths = (journey.data, journey.evaluation)
    training, evaluation = (encode_rows(checkpoint, task, record, path, journey.limit) for path in paths)
    pad = checkpoint.pad_token_id
    return training, refer_rows(infer_with(checkpoint.model), evaluation, task, pad_token_id=pad)


def _scorer(journey: Journey, way: _Way, stages: Stages, *, pad_token_id: int) -> Callable[[str, Runner], Accuracy]:
    def score(stage: str, runner: Runner) -> Accuracy:
        with stages.stage(stage) as move:
            return measure_accuracy(
                runner,
                way.evaluation,
                way.task,
                pad_token_id=pad_token_id,
                batch_size=journey.batch_size,
                progress=move,
            )

    return score


def _calibrate(journey: Journey, way: _Way, checkpoint: Checkpoint, stages: Stages) -> Checkpoint:
    stage = CalibrationStage(
        recipe=journey.recipe,
        target=journey.target,
        settings=journey.calibration,
        record=TaskRecord.of(way.task, journey.columns, journey.max_length, way.training, checkpoint.model.config),
        batch_size=journey.batch_size,
    )
    out = journey.out / "calibrated"
    inputs = {"checkpoint": journey.checkpoint, "data": journey.data}

    def make(move: Move) -> None:
        calibrate_checkpoint(
            checkpoint,
            [way.training],
            stage,
            out=out,
            inputs=inputs,
            progress=lambda phase, done, total: move(done, total, phase),
        )

    stages.fill("calibrate", out, describe_calibration(checkpoint, way.training, stage), make)
    return load_checkpoint(out, way.task)


def _finetune(journey: Journey, way: _Way, checkpoint: Checkpoint, stages: Stages) -> Checkpoint:
    teacher = load_checkpoint(journey.checkpoint, way.task).model
    stage = FinetuneStage(settings=journey.finetuning, teacher=teacher, run=journey.training)
    out, inputs = journey.finetuned, {"checkpoint": journey.out / "calibrated", "data": journey.data}

    def make(move: Move) -> None:
        finetune_checkpoint(
            checkpoint, way.training, stage, out=out, inputs=inputs, progress=lambda step, steps, _: move(step, steps)
        )

    origin = describe_training(checkpoint, way.training, stage)
    stages.fill("fine-tune", out, origin, make)
    forget_run(journey.training, origin)  # still there where deleting it was the last thing undone
    return load_checkpoint(out, way.task)


def _export(
    journey: Journey, way: _Way, checkpoint: Checkpoint, graph: ir.Model, stages: Stages
) -> tuple[ExportedModel, ExportedModel]:
    model, tokenizer, lowering, out = checkpoint.model, checkpoint.tokenizer, way.lowering, journey.out / "onnx"

    def make(_: Move) -> None:
        write_exported(graph, model, out, lowering=lowering, tokenizer=tokenizer, step=trace_next(model))

    stages.fill("export", out, describe_export(model, tokenizer, lowering), make)
    exported = ExportedModel(folder=out, target=journey.target, precision=lowering.precision, quantized=True)
    float_twin = replace(lowering, quantized=False)
    return exported, write_exported(graph, model, way.scratch / "float", lowering=float_twin, tokenizer=None)
