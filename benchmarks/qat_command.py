"""``python -m benchmarks.qat``: the table of what QAT recovers, from the command line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.environment import describe_environment
from benchmarks.qat_cells import COLUMNS, Column, Material, run_cell
from benchmarks.qat_table import calibrate_once, draw_columns, keep_cell, read_cell, summarize
from qat.artefacts import write_json
from qat.checkpoint import load_checkpoint
from qat.commands import encode_rows
from qat.console import print_json, say, show_stages
from qat.errors import RecipeError, suggest
from qat.finetune_settings import FinetuneSettings
from qat.options import SetOption
from qat.recipe import Recipe, validate_settings
from qat.settings import parse_overrides, require_stages
from qat.tasks import find_task
from qat.tasks.record import TaskRecord


def _choose(only: Sequence[str]) -> dict[str, Column]:
    for name in only:
        if name not in COLUMNS:
            raise RecipeError(f"column '{name}' is not known: {suggest(name, COLUMNS)}")
    return {name: column for name, column in COLUMNS.items() if name == "fp32" or not only or name in only}


def qat_command(
    checkpoint: Annotated[Path, typer.Argument(help="Float checkpoint folder with the task's head.")],
    data: Annotated[Path, typer.Option(help="Labelled rows to calibrate and train on.")],
    evaluation: Annotated[Path, typer.Option("--eval", help="Labelled rows to report.")],
    out: Annotated[Path, typer.Option(help="Folder of the cells and of table.json.")],
    task: Annotated[str, typer.Option(help="Task, as Hugging Face names it.")] = "text-classification",
    recipe: Annotated[str, typer.Option(help="What is quantized.")] = "tensorrt",
    weights: Annotated[str, typer.Option(help="per_tensor or per_channel.")] = "per_tensor",
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds a trained column has.")] = 3,
    max_length: Annotated[int | None, typer.Option(help="Tokens a row keeps.")] = None,
    only: Annotated[list[str] | None, typer.Option("--only", help="A column; may be given several times.")] = None,
    settings: SetOption = None,
) -> None:
    """Fill the table of what QAT recovers; the last line is JSON.

    Example: python -m benchmarks.qat my-bert --data train.jsonl --eval dev.jsonl --out runs/qat/my-bert
    """
    chosen = _choose(only or [])
    overrides = parse_overrides(settings or [])
    require_stages(overrides, ("finetune",))
    found = find_task(task)
    loaded = load_checkpoint(checkpoint, found)
    record = TaskRecord(name=task, max_length=max_length)
    material = Material(
        checkpoint=checkpoint,
        calibrated=out / "calibrated",
        task=found,
        training=encode_rows(loaded, found, record, data),
        scored=encode_rows(loaded, found, record, evaluation),
        settings=validate_settings(FinetuneSettings, overrides.get("finetune", {}), where="fine-tuning settings"),
    )
    out.mkdir(parents=True, exist_ok=True)
    calibrate_once(
        material, Recipe.from_mapping({**Recipe.load(recipe).model_dump(), "weights": weights}, where=recipe)
    )
    wanted = [
        (name, seed)
        for name, column in chosen.items()
        for seed in range(1 if column.lesson == "none" else seeds)
    ]  # fmt: skip
    cells = {}
    with show_stages() as advance:
        for done, (name, seed) in enumerate(wanted):
            advance(f"{name}, seed {seed}", done, len(wanted))
            if read_cell(out, name, seed) is None:
                keep_cell(out, name, seed, run_cell(material, chosen[name], seed))
            kept = read_cell(out, name, seed)
            if kept is not None:
                cells[name, seed] = kept
    table = {
        "checkpoint": checkpoint.name, "task": task, "recipe": recipe, "weights": weights,
        "trained_rows": len(material.training), "scored_rows": len(material.scored),
        "settings": material.settings.model_dump(), **summarize(material, cells), "environment": describe_environment(),
    }  # fmt: skip
    write_json(out / "table.json", table)
    say(f"{checkpoint.name}, {task}: {table['metric']}\n{draw_columns(table['columns'])}")
    print_json({"out": str(out / "table.json"), "metric": table["metric"], "columns": table["columns"]})
