"""``qdq predict``: what an artefact says of texts."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Literal, TextIO

import typer

from export.predict import Asking, Predictor
from export.runners.running import Running
from qat.artefacts import atomic_file
from qat.console import format_json, print_json, say, show_progress
from qat.data import count_rows, parse_columns
from qat.errors import DataError
from qat.options import BatchSizeOption, ColumnsOption, JsonOption, LimitOption, MaxLengthOption, TaskOption
from qat.tasks.base import Prediction


def predict_command(
    artefact: Annotated[Path, typer.Argument(help="Checkpoint folder, exported folder, ONNX file or engine.")],
    data: Annotated[
        Path | None, typer.Option("--data", help="Rows to answer, any number: .jsonl, .csv, .tsv, .parquet.")
    ] = None,
    text: Annotated[list[str] | None, typer.Option("--text", help="A text; may be given several times.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="JSONL file, a line a row; default: standard output.")
    ] = None,
    task: TaskOption = None,
    columns: ColumnsOption = None,
    max_length: MaxLengthOption = None,
    batch_size: BatchSizeOption = 32,
    limit: LimitOption = None,
    top: Annotated[int, typer.Option("--top", min=1, help="How many of the likeliest answers to name.")] = 1,
    new_tokens: Annotated[
        int | None,
        typer.Option("--new-tokens", min=1, help="Said after a text at most (text-generation; 32)."),
    ] = None,
    provider: Annotated[
        str | None, typer.Option("--provider", help="ONNX Runtime's: CUDA, Tensorrt, NvTensorRTRTX; default: CPU.")
    ] = None,
    goal: Annotated[
        Literal["latency", "throughput"], typer.Option("--goal", help="One batch after the other, or several at once.")
    ] = "latency",
    streams: Annotated[int, typer.Option("--streams", min=0, help="Batches at once; 0: one a core.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Answer texts: labels, spans, entities, choices, filled masks, vectors or how they go on, one JSON object a row.

    Rows of a file are read, answered and written some thousand at a time, in their order.

    Example: qdq predict onnx --text "a domesticated carnivorous mammal" --top 3
    Example: qdq predict decoder-onnx --text "a small animal" --new-tokens 16
    Example: qdq predict onnx --data rows.jsonl --out answers.jsonl --goal throughput
    """
    if (data is None) == (not text):
        given = "both were" if text else "none was"
        raise DataError(f"--data and --text say what to answer, and {given} given: give one of the two")
    asking = Asking(
        columns=None if columns is None else parse_columns(columns),
        max_length=max_length,
        batch_size=batch_size,
        limit=limit,
        top=top,
        new_tokens=new_tokens,
        running=Running(provider=provider, goal=goal, streams=streams),
    )
    started = time.perf_counter()
    total = len(text or []) if data is None else count_rows(data, limit)
    with ExitStack() as stack:
        lines = stack.enter_context(_open_lines(out))
        with show_progress("predict") as advance:
            opened = Predictor(artefact, task=task, asking=asking, progress=lambda done: advance(done, total))
            predictor = stack.enter_context(opened)
            parts = [predictor.predict(text or [])] if data is None else predictor.stream(data)
            count = 0 if lines.isatty() else _write(parts, lines)
        count += _write(parts, lines) if lines.isatty() else 0  # a terminal shows answers in place of the bar
    if predictor.truncated:
        say(f"{predictor.truncated} rows were longer than the model takes and lost their end")
    if out is not None:
        say(f"{out}: {count} rows in {time.perf_counter() - started:.1f} s")
    if as_json:
        facts = {"artefact": str(artefact), "task": predictor.task, "n": count, "truncated": predictor.truncated}
        print_json({**facts, "out": None if out is None else str(out)})


@contextmanager
def _open_lines(out: Path | None) -> Iterator[TextIO]:
    if out is None:
        yield sys.stdout
        return
    with atomic_file(out) as staging, staging.open("w", encoding="utf-8") as lines:
        yield lines


def _write(parts: Iterable[list[Prediction]], lines: TextIO) -> int:
    count = 0
    for part in parts:
        lines.writelines(format_json(told) + "\n" for told in part)
        count += len(part)
    return count
