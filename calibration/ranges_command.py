"""``qdq ranges``: the ranges of a checkpoint listed, compared with another's, or set by hand."""

from pathlib import Path
from typing import Annotated, Any

import typer

from calibration.evidence import read_evidence
from calibration.range_edits import edit_ranges, parse_edit
from calibration.range_listing import (
    compare_ranges,
    describe_difference,
    describe_range,
    find_evidence,
    find_methods,
)
from calibration.range_rows import list_ranges
from qat.artefacts import require_writable
from qat.checkpoint import Checkpoint
from qat.commands import load_quantized
from qat.console import print_json, print_table, show_progress
from qat.errors import CheckpointError, DataError
from qat.options import CheckpointArgument, JsonOption, TaskOption
from qat.quantizer import quantizers_without_range


def ranges_command(
    checkpoint: CheckpointArgument,
    diff: Annotated[Path | None, typer.Option("--diff", help="Another quantized folder to compare with.")] = None,
    edits: Annotated[
        list[str] | None,
        typer.Option("--set", help="PATTERN=VALUE: an amax (4.5), a factor (x0.8) or a method kept by --method all."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Where the edited folder goes; never DIR itself.")] = None,
    task: TaskOption = None,
    as_json: JsonOption = False,
) -> None:
    """List a calibrated folder's ranges, compare them with another's, or edit them into a new folder.

    Example: qdq ranges calibrated
    Example: qdq ranges calibrated --diff finetuned
    Example: qdq ranges calibrated --set 'encoder.layer.3.*ffn*=4.5' --set '*output.dense*=x0.8' --out edited
    """
    if diff is not None and edits:
        raise DataError("--diff compares and --set edits: give one of them")
    if edits and out is None:
        raise DataError("--set writes a new folder: add --out")
    if out is not None and not edits:
        raise DataError("--out is where edited ranges go: add --set 'PATTERN=VALUE'")
    if edits and out is not None:
        result = _edit(checkpoint, edits, out, task)
    elif diff is not None:
        result = _compare(checkpoint, diff, task)
    else:
        result = _list(checkpoint, task)
    if as_json:
        print_json(result)


def _load(folder: Path, task: str | None) -> Checkpoint:
    with show_progress("read"):
        loaded, _, _ = load_quantized(folder, task)
    if quantizers_without_range(loaded.model):
        raise CheckpointError(f"{folder} has no ranges yet: run qdq calibrate on the float checkpoint")
    return loaded


def _list(folder: Path, task: str | None) -> dict[str, Any]:
    rows = list(list_ranges(_load(folder, task).model))
    evidence, method = read_evidence(folder), find_methods(folder)
    told = [{**describe_range(row, find_evidence(row, evidence)), "method": method(row)} for row in rows]
    shown = [each for each in told if each["source"] == "calibrated"]
    fixed = sum(row.source == "constant" for row in rows)
    print_table(
        f"{folder}: {len(shown)} ranges from data; {len(rows) - len(shown) - fixed} of weights follow them, "
        f"{fixed} are fixed",
        ("layer", "tensor", "amax", "scale", "method", "clipped", "max/amax", "outl."),
        [
            (
                each["layer"],
                each["role"],
                each["amax"],
                each["scale"],
                each["method"],
                _write_share(each["saturated"], approximate=bool(each["estimated"])),
                each["largest"] / each["amax"] if each["largest"] is not None and each["amax"] > 0 else None,
                each["outliers"],
            )
            for each in sorted(shown, key=lambda each: each["layer"])
        ],
    )
    return {"checkpoint": str(folder), "ranges": told}


def _write_share(share: float | None, *, approximate: bool) -> str | None:
    """A share as a percentage; an estimate says so.

    >>> _write_share(0.00123, approximate=False), _write_share(0.5, approximate=True)
    ('0.12%', '~50%')
    """
    return None if share is None else f"{'~' if approximate else ''}{100 * share:.2g}%"


def _compare(folder: Path, other: Path, task: str | None) -> dict[str, Any]:
    here, there = (list(list_ranges(_load(each, task).model)) for each in (folder, other))
    found = compare_ranges(here, there)
    print_table(
        f"{folder} and {other}: {len(found.changed)} ranges differ, {found.unchanged} are equal",
        ("layer", "tensor", "amax", "other", "other/amax"),
        [(each.row.layer, each.row.role, each.row.amax, each.there, each.ratio) for each in found.changed],
    )
    for place, names in ((folder, found.only_here), (other, found.only_there)):
        if names:
            print_table(f"only in {place}: {len(names)}", ("quantizer",), [(name,) for name in names])
    return {"checkpoint": str(folder), "other": str(other), **describe_difference(found)}


def _edit(folder: Path, texts: list[str], out: Path, task: str | None) -> dict[str, Any]:
    edits = [parse_edit(text) for text in texts]
    if out.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise DataError(f"--out {out} is or holds the folder itself: ranges are never edited in place, give another")
    loaded = _load(folder, task)
    require_writable(out)
    edited = edit_ranges(loaded, edits, out=out)
    print_table(
        f"{out}: {len(edited)} ranges edited",
        ("layer", "tensor", "amax", "was", "by"),
        [(each.row.layer, each.row.role, each.amax, each.row.amax, each.value) for each in edited],
    )
    return {
        "out": str(out),
        "edited": [
            {"name": each.row.name, "depth": each.row.depth, "was": each.row.amax, "amax": each.amax, "by": each.value}
            for each in edited
        ],
    }
