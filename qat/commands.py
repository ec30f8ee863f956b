"""``qdq finetune``: a calibrated checkpoint is trained on with its quantizers in place."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from transformers import PreTrainedModel

from qat.artefacts import require_writable
from qat.batches import has_targets
from qat.checkpoint import Checkpoint, load_checkpoint, read_config
from qat.console import print_json, print_table, show_progress
from qat.data import parse_columns
from qat.errors import CheckpointError, DataError
from qat.finetune import Finetuning
from qat.finetune_settings import FinetuneSettings
from qat.finetune_stage import Facts, FinetuneStage, checkpoints_beside, finetune_checkpoint
from qat.options import (
    CheckpointArgument,
    ColumnsOption,
    DataOption,
    JsonOption,
    LimitOption,
    MaxLengthOption,
    OutOption,
    SetOption,
    TaskOption,
)
from qat.processes import rank
from qat.recipe import validate_settings
from qat.scoring import infer_with, refer_rows, score_rows
from qat.settings import parse_overrides, require_stages
from qat.tasks import Task, find_task
from qat.tasks.base import Encoded
from qat.tasks.record import TaskRecord, read_task_record
from qat.training_run import TrainingRun


def finetune_command(
    checkpoint: CheckpointArgument,
    data: DataOption,
    out: OutOption,
    evaluation: Annotated[
        Path | None, typer.Option("--eval", help="Rows to score the result on; never trained on.")
    ] = None,
    task: TaskOption = None,
    columns: ColumnsOption = None,
    max_length: MaxLengthOption = None,
    limit: LimitOption = None,
    teacher: Annotated[Path | None, typer.Option("--teacher", help="Float checkpoint to learn from.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run that was interrupted.")] = False,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a calibrated checkpoint on, quantizers in place.

    Some rows of --data choose the best step instead of being trained on; those of --eval do not. Until OUT is written,
    checkpoints lie in OUT.checkpoints.

    Example: qdq finetune calibrated --data train.jsonl --eval dev.jsonl --teacher my-bert --out finetuned
    """
    overrides = parse_overrides(settings or [])
    require_stages(overrides, ("finetune",))
    chosen = validate_settings(FinetuneSettings, overrides.get("finetune", {}), where="fine-tuning settings")
    loaded, found, record = load_quantized(checkpoint, task)
    if columns is not None:
        record = replace(record, columns=parse_columns(columns))
    if max_length is not None:
        record = replace(record, max_length=max_length)
    encoded = encode_rows(loaded, found, record, data, limit)
    held = None if evaluation is None else encode_rows(loaded, found, record, evaluation, limit)
    if teacher is None and not has_targets(encoded[0]):
        raise DataError(f"{found.name} has no labels to learn: add --teacher with the float checkpoint")
    require_writable(out)
    lesson = None if teacher is None else load_teacher(teacher, found, loaded)
    if held is not None and lesson is not None:
        held = refer_rows(infer_with(lesson), held, found, pad_token_id=loaded.pad_token_id)
    stage = FinetuneStage(
        settings=chosen,
        teacher=lesson,
        run=TrainingRun(checkpoints_beside(out), resume),
        score=dict if held is None else partial(_score, loaded, found, held),
    )
    inputs = {"checkpoint": checkpoint, "data": data, **({} if evaluation is None else {"eval": evaluation})}
    with show_progress("fine-tune") as advance:
        done, facts = finetune_checkpoint(
            loaded, encoded, stage, out=out, inputs=inputs, progress=lambda step, steps, loss: advance(step, steps)
        )
    if rank() == 0:
        _report(out, len(encoded), done, facts, as_json=as_json)


def _score(loaded: Checkpoint, task: Task, rows: Encoded) -> Facts:
    with show_progress("score") as advance:
        pad = loaded.pad_token_id
        score = score_rows(infer_with(loaded.model), rows, task, pad_token_id=pad, progress=advance)
    return {"score": {"metric": score.metric, "value": score.value, "n": score.n, "metrics": dict(score.metrics)}}


def _report(out: Path, rows: int, done: Finetuning, facts: Facts, *, as_json: bool) -> None:
    shown: dict[str, object] = {
        "loss, first tenth": done.first_loss, "loss, last tenth": done.last_loss, "best step": done.best_step
    }  # fmt: skip
    score = facts.get("score")
    if isinstance(score, dict):
        shown |= {**score["metrics"], "rows": score["n"]}
    print_table(f"{out}: {done.steps} steps on {rows} rows", tuple(shown), [tuple(shown.values())])
    if as_json:
        figures = {name: value for name, value in facts.items() if name != "finetune"}
        print_json({"out": str(out), "steps": done.steps, **figures})


def encode_rows(
    checkpoint: Checkpoint,
    task: Task,
    record: TaskRecord,
    path: Path,
    limit: int | None = None,
    *,
    require_labels: bool = True,
) -> Encoded:
    """The rows of a file, read and encoded as the record says.

    Raises:
        DataError: rows the task cannot use, or without labels where they are required.
    """
    return task.encode(
        task.load(path, columns=record.columns, limit=limit, require_labels=require_labels),
        tokenizer=checkpoint.tokenizer,
        config=checkpoint.model.config,
        max_length=record.max_length,
        require_labels=require_labels,
    )


def load_quantized(folder: Path, task: str | None) -> tuple[Checkpoint, Task, TaskRecord]:
    """A quantized checkpoint, its task and how its data is read.

    Raises:
        CheckpointError: a float checkpoint, or none.
        DataError: neither the folder nor ``task`` says the task.
    """
    config = read_config(folder)
    if getattr(config, "quantization_config", None) is None:
        raise CheckpointError(f"{folder} is a float checkpoint: run qdq calibrate on it first")
    record = read_task_record(config, folder=folder, given=task)
    found = find_task(record.name).settle(config)
    return load_checkpoint(folder, found), found, record


def load_teacher(folder: Path, task: Task, student: Checkpoint) -> PreTrainedModel:
    """The float model a student learns from.

    Raises:
        CheckpointError: a quantized one, or one with other labels than the student's.
    """
    teacher = load_checkpoint(folder, task)
    if teacher.quantization is not None:
        raise CheckpointError(f"--teacher {folder} is quantized: give the float checkpoint")
    if teacher.model.config.id2label != student.model.config.id2label:
        raise CheckpointError(
            f"--teacher {folder} has {teacher.model.config.num_labels} labels, the student "
            f"{student.model.config.num_labels}, or they are named otherwise: give the checkpoint it was made from"
        )
    return teacher.model
