"""``qdq evaluate``, ``benchmark``, ``run``: figures of artefacts, and the whole journey."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.evaluate import Reading, benchmark, evaluate
from benchmarks.evidence import summarize
from benchmarks.journey import Journey, run_journey
from benchmarks.report import HTML_NAME, make_plain
from benchmarks.sample import VALIDATION
from benchmarks.workload import parse_shapes_list
from calibration.commands import MethodOption, read_calibration, read_recipe
from export.commands import read_build_settings
from qat.console import print_json, print_table, say, show_progress, show_stages
from qat.data import count_rows, parse_columns
from qat.errors import DataError
from qat.finetune_settings import FinetuneSettings
from qat.options import (
    BatchSizeOption,
    CheckpointArgument,
    ColumnsOption,
    DataOption,
    JsonOption,
    LimitOption,
    MaxLengthOption,
    OutOption,
    RecipeOption,
    SetOption,
    TargetOption,
    TaskOption,
)
from qat.recipe import validate_settings
from qat.settings import parse_overrides, require_stages

PrecisionOption = Annotated[str | None, typer.Option("--precision", help="Of what is not INT8: fp32, fp16 or bf16.")]


def evaluate_command(
    artefact: Annotated[Path, typer.Argument(help="Checkpoint folder, exported folder, ONNX file or engine.")],
    data: DataOption,
    task: TaskOption = None,
    columns: ColumnsOption = None,
    max_length: MaxLengthOption = None,
    batch_size: BatchSizeOption = 64,
    limit: LimitOption = None,
    reference: Annotated[
        Path | None,
        typer.Option("--reference", help="Float checkpoint whose embeddings are right (feature-extraction)."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score an artefact on labelled rows, or embeddings by those of the float checkpoint.

    Example: qdq evaluate onnx --data validation.jsonl
    """
    with show_progress("evaluate") as advance:
        total = count_rows(data, limit)
        found = evaluate(
            artefact,
            data,
            task=task,
            reference=reference,
            reading=Reading(
                columns=None if columns is None else parse_columns(columns),
                max_length=max_length,
                batch_size=batch_size,
                limit=limit,
            ),
            progress=lambda done, read: advance(done, max(read, total)),
        )
    rows = [(name, value, found.n) for name, value in found.metrics.items()]
    print_table(str(artefact), ("metric", "value", "rows"), rows)
    if as_json:
        headline = {"task": found.task, "metric": found.metric, "value": found.value, "n": found.n}
        print_json({"artefact": str(artefact), **headline, "metrics": dict(found.metrics)})


def benchmark_command(
    artefacts: Annotated[list[Path], typer.Argument(help="Checkpoint folders, exported folders, ONNX files, engines.")],
    shapes: Annotated[str, typer.Option("--shapes", help="BATCHxSEQUENCE list: 1x128,8x128.")] = "1x128,8x128",
    data: Annotated[Path | None, typer.Option("--data", help="Texts to time on; default: the shipped sample.")] = None,
    task: TaskOption = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="Time for one shape.")] = 5.0,
    as_json: JsonOption = False,
) -> None:
    """Time artefacts side by side on real tokens.

    Example: qdq benchmark onnx finetuned --shapes 1x32,8x128
    """
    pairs = parse_shapes_list(shapes)
    with show_progress("benchmark") as advance:
        texts = VALIDATION if data is None else data
        rows = benchmark(artefacts, pairs, task=task, seconds=seconds, data=texts, progress=advance)
    names = [str(artefact) for artefact in artefacts] * len(pairs)
    print_table(
        "latency in ms a batch",
        ("artefact", "runner", "precision", "shape", "p50", "p90", "p99", "samples/s"),
        [
            (
                name,
                row.runner,
                row.precision,
                f"{row.batch}x{row.sequence}",
                row.p50_ms,
                row.p90_ms,
                row.p99_ms,
                row.samples_per_s,
            )
            for name, row in zip(names, rows, strict=True)
        ],
    )
    if as_json:
        print_json({"latency": [{"artefact": n, **asdict(row)} for n, row in zip(names, rows, strict=True)]})


def run_command(
    checkpoint: CheckpointArgument,
    data: DataOption,
    evaluation: Annotated[Path, typer.Option("--eval", help="Labelled rows to score on; never trained on.")],
    out: OutOption,
    task: TaskOption = None,
    recipe: RecipeOption = "tensorrt",
    target: TargetOption = "rtx",
    precision: PrecisionOption = None,
    method: MethodOption = None,
    columns: ColumnsOption = None,
    max_length: MaxLengthOption = None,
    batch_size: BatchSizeOption = 32,
    limit: LimitOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Take finished stages, go on with the interrupted.")] = False,
    sensitivity: Annotated[
        int | None,
        typer.Option("--sensitivity", min=1, help="Measure what each group of quantizers harms, on this many rows."),
    ] = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """The whole journey: calibrate, fine-tune, export, build, measure, report.

    Example: qdq run my-bert --task text-classification --data train.jsonl --eval dev.jsonl --out runs/first
    """
    overrides = parse_overrides(settings or [])
    require_stages(overrides, ("task", "weights", "calibration", "finetune", "build"))
    if task is None:
        raise DataError("a float checkpoint does not say its task: add --task text-classification")
    journey = Journey(
        checkpoint=checkpoint,
        task=task,
        data=data,
        evaluation=evaluation,
        out=out,
        recipe=read_recipe(recipe, target, overrides.get("weights", {})),
        target=target,
        precision=precision,
        settings=overrides.get("task", {}),
        columns={} if columns is None else parse_columns(columns),
        max_length=max_length,
        batch_size=batch_size,
        limit=limit,
        calibration=read_calibration(method, overrides.get("calibration", {})),
        finetuning=validate_settings(FinetuneSettings, overrides.get("finetune", {}), where="fine-tuning settings"),
        building=read_build_settings({}, [f"build.{k}={v}" for k, v in overrides.get("build", {}).items()]),
        resume=resume,
        sensitivity_rows=sensitivity,
    )
    if not resume and (out / "calibrated").is_dir() and not (out / HTML_NAME).is_file():
        say(f"{out} holds a run that was not finished: all of it is made again (--resume takes what is finished)")
    with show_stages() as advance:
        report = run_journey(journey, advance=advance)
    print_table(f"{out / 'report.html'}", ("fact", "value"), summarize(report))
    if as_json:
        print_json(make_plain(report))
