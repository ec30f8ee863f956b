"""``qdq sensitivity``: which quantizers harm a checkpoint, and the fewest to leave out for a given accuracy."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from transformers import PreTrainedModel

from benchmarks.sensitivity import EnginePlans, describe_front, describe_prices, describe_sensitivity, draw_harm
from calibration.front import Placement, PlanCost, measure_placements, pareto_front, price_group
from calibration.sensitivity import FloatChoice, SensitivityReport, choose_float_groups, measure_sensitivity
from qat.artefacts import atomic_file, require_writable
from qat.commands import encode_rows, load_quantized
from qat.console import print_json, print_table, show_progress
from qat.data import parse_columns
from qat.errors import DataError
from qat.options import CheckpointArgument, ColumnsOption, DataOption, JsonOption, LimitOption, TaskOption
from qat.scoring import Accuracy, infer_with, score_rows


def sensitivity_command(
    checkpoint: CheckpointArgument,
    data: DataOption,
    task: TaskOption = None,
    columns: ColumnsOption = None,
    limit: LimitOption = 512,
    max_drop: Annotated[
        str | None, typer.Option("--max-drop", help="Find the fewest groups to keep in float: 0.5% or 0.005.")
    ] = None,
    recipe_out: Annotated[Path | None, typer.Option("--recipe-out", help="Where that recipe goes, as TOML.")] = None,
    front: Annotated[
        int | None,
        typer.Option("--front", min=2, help="Measure this many placements, INT8 to float, against the engine's plan."),
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Where a picture goes: .svg, .png or .pdf.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure which quantizers harm a calibrated checkpoint, and what each is worth to the engine.

    Example: qdq sensitivity calibrated --data train.jsonl --max-drop 0.5% --recipe-out mixed.toml --front 12
    """
    allowed = None if max_drop is None else parse_share(max_drop)
    if allowed is None and recipe_out is not None:
        raise DataError("--recipe-out needs to know how much may be lost: add --max-drop 0.5%")
    loaded, found, record = load_quantized(checkpoint, task)
    if columns is not None:
        record = replace(record, columns=parse_columns(columns))
    encoded = encode_rows(loaded, found, record, data, limit)
    for place in (recipe_out, plot):
        if place is not None:
            require_writable(place)

    def score(model: PreTrainedModel) -> Accuracy:
        return score_rows(infer_with(model), encoded, found, pad_token_id=loaded.pad_token_id)

    with show_progress("leave one out") as advance:
        report = measure_sensitivity(loaded.model, score, progress=advance)
    choice: FloatChoice | None = None
    placements: tuple[Placement, ...] = ()
    prices: Mapping[str, PlanCost] = {}
    if allowed is not None or front is not None:
        with show_progress("price in the engine"):
            plans = EnginePlans(loaded.model)
            prices = describe_prices(plans, report)
    if allowed is not None:
        cost = partial(price_group, plans)
        with show_progress("keep in float") as advance:
            choice = choose_float_groups(loaded.model, report, score, max_drop=allowed, cost=cost, progress=advance)
    if front is not None:
        with show_progress("placements") as advance:
            placements = measure_placements(loaded.model, report, score, plans, points=front, progress=advance)
    _print_report(report, choice, prices, len(encoded))
    if front is not None:
        _print_front(placements, report.metric_name)
    if choice is not None and recipe_out is not None:
        with atomic_file(recipe_out) as staging:
            staging.write_text(choice.recipe.to_toml(), encoding="utf-8")
    if plot is not None:
        with atomic_file(plot) as staging:
            draw_harm(report.rows).savefig(staging, format=plot.suffix.removeprefix(".") or "svg")
    if as_json:
        print_json(
            describe_sensitivity(report, choice, prices) | ({"front": describe_front(placements)} if front else {})
        )


def parse_share(text: str) -> float:
    """The share that ``0.5%`` or ``0.005`` stands for.

    Raises:
        DataError: neither a number nor a percentage between 0 and 100 %.

    >>> parse_share("0.5%"), parse_share("0.005")
    (0.005, 0.005)
    """
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise DataError(f"--max-drop {text} is no share: expected a percentage such as 0.5%, or a number such as 0.005")
    return share


def _print_report(
    report: SensitivityReport, choice: FloatChoice | None, prices: Mapping[str, PlanCost], rows: int
) -> None:
    metric = report.metric_name
    title = f"{metric} on {rows} rows: float {report.float_metric:.4f}, quantized {report.quantized_metric:.4f}"
    share = [row.harm / report.quantized_error if report.quantized_error else 0.0 for row in report.rows]
    print_table(
        title,
        ("group", "error it causes", f"{metric} without", *(("MB in float", "kernels in float") if prices else ())),
        [
            (row.group.name, f"{each:+.1%}", row.metric, *_format_price(prices.get(row.group.name)))
            for row, each in zip(report.rows[:12], share, strict=False)
        ],
    )
    if choice is not None:
        names = ", ".join(group.name for group in choice.groups) or "nothing"
        verdict = "" if choice.reached else "; the drop asked for was not reached"
        print_table(f"keep in float: {names}", (metric,), [(f"{choice.metric:.4f}{verdict}",)])


def _format_price(price: PlanCost | None) -> tuple[str, ...]:
    return () if price is None else (f"{price.megabytes:+.2f}", f"{price.kernels:+d}")


def _print_front(placements: Sequence[Placement], metric: str) -> None:
    best = pareto_front(placements)
    print_table(
        "placements: groups join the float ones by harm for each megabyte; a star marks the Pareto front",
        ("", "float groups", "activation MB", "kernels", "error", metric),
        [
            ("*" if each in best else "", len(each.groups), f"{each.cost.megabytes:.2f}", each.cost.kernels,
             f"{each.error:.2e}", each.metric)
            for each in placements
        ],
    )  # fmt: skip
