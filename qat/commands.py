"""``qdq finetune``: a calibrated checkpoint is trained on with its quantizers in place."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from transformers import PreTrainedModel

from qat.artefacts import require_writable
from qat.checkpoint import Checkpoint, load_checkpoint, read_config, save_checkpoint
from qat.console import print_json, print_table, show_progress
from qat.data import parse_columns
from qat.errors import CheckpointError
from qat.finetune import FinetuneSettings, finetune
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
from qat.recipe import validate_settings
from qat.scoring import infer_with, score_rows
from qat.settings import parse_overrides, require_stages
from qat.tasks import Task, find_task
from qat.tasks.base import Encoded
from qat.tasks.record import TaskRecord, read_task_record


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
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a calibrated checkpoint on, quantizers in place.

    Example: qdq finetune calibrated --data train.jsonl --eval dev.jsonl --teacher my-bert --out finetuned
    """
    overrides = parse_overrides(settings or [])
    require_stages(overrides, ("finetune",))
    stage = validate_settings(FinetuneSettings, overrides.get("finetune", {}), where="fine-tuning settings")
    loaded, found, record = load_quantized(checkpoint, task)
    if columns is not None:
        record = replace(record, columns=parse_columns(columns))
    if max_length is not None:
        record = replace(record, max_length=max_length)
    encoded = encode_rows(loaded, found, record, data, limit)
    held = None if evaluation is None else encode_rows(loaded, found, record, evaluation, limit)
    require_writable(out)
    with show_progress("fine-tune") as advance:
        done = finetune(
            loaded.model,
            encoded,
            tokenizer=loaded.tokenizer,
            teacher=None if teacher is None else load_teacher(teacher, found, loaded),
            settings=stage,
            progress=lambda step, steps, loss: advance(step, steps),
        )
    facts: dict[str, Any] = {
        "finetune": stage.model_dump(),
        "first_loss": done.first_loss,
        "last_loss": done.last_loss,
    }
    inputs = {"checkpoint": checkpoint, "data": data, **({} if evaluation is None else {"eval": evaluation})}
    shown: dict[str, Any] = {"loss, first tenth": done.first_loss, "loss, last tenth": done.last_loss}
    if held is not None:
        with show_progress("score") as advance:
            pad = int(loaded.tokenizer.pad_token_id or 0)
            score = score_rows(infer_with(loaded.model), held, found, pad_token_id=pad, progress=advance)
        facts["score"] = {"metric": score.metric, "value": score.value, "n": score.n}
        shown |= {score.metric: score.value, "rows": score.n}
    save_checkpoint(loaded, out, stage="finetune", inputs=inputs, facts=facts)
    print_table(f"{out}: {done.steps} steps on {len(encoded)} rows", tuple(shown), [tuple(shown.values())])
    if as_json:
        figures = {name: value for name, value in facts.items() if name != "finetune"}
        print_json({"out": str(out), "steps": done.steps, **figures})


def encode_rows(checkpoint: Checkpoint, task: Task, record: TaskRecord, path: Path, limit: int | None) -> Encoded:
    """The labelled rows of a file, read and encoded as the record says.

    Raises:
        DataError: rows the task cannot use.
    """
    return task.encode(
        task.load(path, columns=record.columns, limit=limit),
        tokenizer=checkpoint.tokenizer,
        config=checkpoint.model.config,
        max_length=record.max_length,
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
    found = find_task(record.name)
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
