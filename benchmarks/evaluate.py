"""One figure of one artefact: its accuracy on labelled rows, its latency on real tokens."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.accuracy import measure_accuracy
from benchmarks.latency import LatencyRow, measure_latency
from benchmarks.sample import VALIDATION
from benchmarks.workload import Workload
from export.runners.load import open_artefact
from qat.errors import RecipeError
from qat.scoring import Accuracy, Progress
from qat.tasks import find_task


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
    reading: Reading | None = None,
    progress: Progress = lambda done, rows: None,
) -> Accuracy:
    """The task's metric of a checkpoint folder, an exported folder or an ONNX file, over every row of ``data``.

    Args:
        artefact: what to score.
        data: labelled rows.
        task: needed for a float checkpoint only.
        reading: columns, lengths, batches; None for what the artefact remembers.
        progress: called after each batch with the rows done and all rows.

    Raises:
        CheckpointError: no such artefact.
        DataError: rows the task cannot use.
    """
    reading = reading or Reading()
    opened = open_artefact(artefact, task=task)
    columns = opened.columns if reading.columns is None else reading.columns
    rows = opened.task.load(data, columns=columns, limit=reading.limit)
    encoded = opened.task.encode(
        rows,
        tokenizer=opened.tokenizer,
        config=opened.config,
        max_length=opened.max_length if reading.max_length is None else reading.max_length,
    )
    return measure_accuracy(
        opened.runner,
        encoded,
        opened.task,
        pad_token_id=int(opened.tokenizer.pad_token_id or 0),
        batch_size=reading.batch_size,
        progress=progress,
    )


def benchmark(
    artefacts: Sequence[Path | str],
    shapes: Sequence[tuple[int, int]],
    *,
    data: Path | str = VALIDATION,
    task: str | None = None,
    seconds: float = 5.0,
    progress: Callable[[str], None] = lambda cell: None,
) -> list[LatencyRow]:
    """Latency rows of several artefacts, side by side in this process, on real tokens.

    Args:
        artefacts: checkpoint folders, exported folders or ONNX files.
        shapes: (batch, sequence) pairs.
        data: texts to take tokens from; the shipped sample unless given.
        task: needed for float checkpoints only.
        seconds: time for one shape, all artefacts together.
        progress: called with a short description before each shape.

    Raises:
        CheckpointError: no such artefact.
        RecipeError: a shape an artefact does not take.
    """
    opened = [open_artefact(artefact, task=task) for artefact in artefacts]
    longest = max(sequence for _, sequence in shapes)
    for artefact, each in zip(artefacts, opened, strict=True):
        takes = getattr(each.config, "max_position_embeddings", longest)
        if longest > takes:
            raise RecipeError(f"{artefact} takes {takes} tokens, {longest} asked for: use --shapes with shorter ones")
    first = opened[0]
    reader = find_task("text-classification") if data == VALIDATION else first.task
    columns = {} if data == VALIDATION else first.columns
    rows = reader.load(data, columns=columns, limit=1024, require_labels=False)
    texts = [str(row[reader.columns.required[0]]) for row in rows]
    tokens = first.tokenizer(texts, truncation=True, max_length=longest)["input_ids"]
    pad = int(first.tokenizer.pad_token_id or 0)
    with ExitStack() as stack:
        runners = [stack.enter_context(each.runner) for each in opened]
        workloads = [Workload(batch, sequence, pad_id=pad) for batch, sequence in shapes]
        return measure_latency(runners, workloads, tokens, seconds=seconds, progress=progress)
