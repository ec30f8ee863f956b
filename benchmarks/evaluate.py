"""One figure of one artefact: its accuracy on labelled rows, its latency on real tokens."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.latency import LatencyRow, measure_latency
from benchmarks.sample import VALIDATION
from benchmarks.workload import Workload
from export.runners.artefact import Artefact, open_artefact
from export.runners.base import Runner
from export.runners.feeding import feed_runner
from export.runners.padded_runner import pad_to_shape
from qat.batches import find_pad
from qat.checkpoint import load_checkpoint, require_float
from qat.errors import DataError, RecipeError
from qat.families import longest_row
from qat.scoring import Accuracy, Batching, Progress, infer_with, refer_rows, score_parts
from qat.tasks import find_task
from qat.tasks.base import Encoded

_TEXTS = 1024
_BATCHES = 64
"""How many batches are read and sorted by length together."""

_CHOICES = 4
"""What multiple choice usually has; a checkpoint takes any number, an exported graph its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How rows are read and fed.

    Attributes:
        columns: the task's columns as the data calls them; None for what the artefact remembers.
        max_length: tokens a row keeps; None for what the artefact remembers.
        batch_size: rows a batch.
        limit: how many rows to read, None for all.
    """

    columns: Mapping[str, str] | None = None
    max_length: int | None = None
    batch_size: int = 64
    limit: int | None = None


def evaluate(
    artefact: Path | str,
    data: Path | str,
    *,
    task: str | None = None,
    reference: Path | str | None = None,
    reading: Reading | None = None,
    progress: Progress = lambda done, rows: None,
) -> Accuracy:
    """The task's metric of a checkpoint folder, an exported folder, an ONNX file or an engine, over all of ``data``.

    Some thousand rows are held at a time, and of those before what the metric needs (``Task.count``): sums, but every
    answer where it ranks them. The ``outputs`` of what is returned are empty.

    Args:
        artefact: what to score.
        data: labelled rows.
        task: needed for a float checkpoint only.
        reference: a float checkpoint; of tasks whose right answers are what the float model answers.
        reading: columns, lengths, batches; None for what the artefact remembers.
        progress: called after each batch with the rows done, and those read so far.

    Raises:
        CheckpointError: no such artefact.
        DataError: rows the task cannot use.
    """
    reading = reading or Reading()
    opened = open_artefact(artefact, task=task)
    columns = opened.columns if reading.columns is None else reading.columns
    pad = find_pad(opened.tokenizer)
    refer = _refer_to(reference, opened, pad)
    parts = (
        refer(
            opened.task.encode(
                rows,
                tokenizer=opened.tokenizer,
                config=opened.config,
                max_length=opened.max_length if reading.max_length is None else reading.max_length,
            )
        )
        for rows in opened.task.stream(data, columns=columns, limit=reading.limit, size=reading.batch_size * _BATCHES)
    )
    with pad_to_shape(opened.runner, opened.folder, pad_token_id=pad) as runner:
        return score_parts(
            partial(feed_runner, runner),
            parts,
            opened.task,
            batching=Batching(pad_token_id=pad, batch_size=reading.batch_size),
            progress=progress,
        )


def _refer_to(reference: Path | str | None, opened: Artefact, pad: int) -> Callable[[Encoded], Encoded]:
    """What says of rows what is right: they themselves, or a float model."""
    if reference is None:
        return lambda rows: rows
    if not opened.task.refers:
        raise DataError(
            f"--reference {reference}: {opened.task.name} is scored by the labels of its rows; leave it out"
        )
    loaded = load_checkpoint(reference, opened.task)
    require_float(loaded)
    return lambda rows: refer_rows(infer_with(loaded.model), rows, opened.task, pad_token_id=pad)


def benchmark(
    artefacts: Sequence[Path | str],
    shapes: Sequence[tuple[int, int]],
    *,
    data: Path | str = VALIDATION,
    task: str | None = None,
    seconds: float = 5.0,
    progress: Progress = lambda done, shapes: None,
) -> list[LatencyRow]:
    """Latency rows of several artefacts, side by side in this process, on real tokens.

    Args:
        artefacts: checkpoint folders, exported folders, ONNX files or engines.
        shapes: (batch, sequence) pairs.
        data: texts to take tokens from; the shipped sample unless given.
        task: needed for float checkpoints only.
        seconds: time for one shape, all artefacts together.
        progress: called before each shape with how many are done, and all of them.

    Raises:
        CheckpointError: no such artefact.
        RecipeError: a shape an artefact does not take.
    """
    opened = [open_artefact(artefact, task=task) for artefact in artefacts]
    longest = max(sequence for _, sequence in shapes)
    for artefact, each in zip(artefacts, opened, strict=True):
        takes = longest_row(each.config)
        if longest > takes:
            raise RecipeError(f"{artefact} takes {takes} tokens, {longest} asked for: use --shapes with shorter ones")
    tokens = _read_tokens(opened[0], data)
    pad = find_pad(opened[0].tokenizer)
    with ExitStack() as stack:
        runners = [stack.enter_context(each.runner) for each in opened]
        choices = _count_choices(runners)
        workloads = [Workload(batch, sequence, pad_id=pad, choices=choices) for batch, sequence in shapes]
        return measure_latency(runners, workloads, tokens, seconds=seconds, progress=progress)


def _read_tokens(artefact: Artefact, data: Path | str) -> list[list[int]]:
    """Real texts as token ids, without the labels, which need not be the artefact's."""
    task, columns = artefact.task, artefact.columns
    if data == VALIDATION:
        rows = find_task("text-classification").load(data, columns={}, limit=_TEXTS, require_labels=False)
        tokens: list[list[int]] = artefact.tokenizer([str(row["text"]) for row in rows], truncation=True)["input_ids"]
        return tokens
    rows = task.load(data, columns=columns, limit=_TEXTS, require_labels=False)
    encoded = task.encode(
        rows.without(task.columns.label), tokenizer=artefact.tokenizer, config=artefact.config, require_labels=False
    )
    return encoded.sequences


def _count_choices(runners: Sequence[Runner]) -> int | None:
    """The choices of an example: the number a graph was exported for, else the usual one, None for a plain batch."""
    between = [axis for runner in runners for axes in runner.inputs.values() for axis in axes[1:-1]]
    return next((axis for axis in between if isinstance(axis, int)), _CHOICES) if between else None
