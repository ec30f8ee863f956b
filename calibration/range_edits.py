"""Ranges set by hand: ``PATTERN=VALUE`` changes every range whose quantizer matches, into a folder of its own."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from calibration.candidates import choose_candidate, read_candidates
from calibration.range_listing import EDITED, name_range
from calibration.range_rows import RangeRow, list_ranges
from calibration.ranges import METHODS
from calibration.settings import BEST
from calibration.stage import kept_files
from qat.artefacts import read_manifest
from qat.checkpoint import Checkpoint, save_checkpoint
from qat.errors import RecipeError, suggest
from qat.quantizer import named_quantizers

_FACTOR = "x"
_NAMED = 3
_MANIFEST_OWN = ("stage", "inputs", "versions", "hardware")


@dataclass(frozen=True, slots=True)
class RangeEdit:
    """What ``--set`` asks for.

    Attributes:
        pattern: a shell-style pattern over the quantizers' paths, with or without the model's own name before them;
            with ``:2`` at its end over the ranges of that depth alone.
        value: a range, a factor such as ``x0.8``, or a method whose candidates the folder keeps.
    """

    pattern: str
    value: str

    @property
    def text(self) -> str:
        """The edit as it was given."""
        return f"{self.pattern}={self.value}"

    def matches(self, row: RangeRow) -> bool:
        """Whether it is about this range."""
        full = (row.name, name_range(row.name, row.depth))
        short = [name.partition(".")[2] for name in full]
        return any(fnmatchcase(name, self.pattern) for name in (*full, *short))


@dataclass(frozen=True, kw_only=True, slots=True)
class EditedRange:
    """A range before and after, and the last edit's value."""

    row: RangeRow
    amax: float
    value: str


def parse_edit(text: str) -> RangeEdit:
    """The edit that ``PATTERN=VALUE`` stands for.

    Raises:
        RecipeError: it is none, or its value is not one.
    """
    pattern, equals, value = (part.strip() for part in text.partition("="))
    if not (pattern and equals and value):
        raise RecipeError(
            f"--set '{text}' is no edit of ranges: write --set 'PATTERN=VALUE', the value a range such as 4.5, "
            "a factor such as x0.8, or a method such as max"
        )
    number = _read_number(value.removeprefix(_FACTOR))
    known = (BEST, *METHODS)
    if number is None and value not in known:
        raise RecipeError(
            f"--set '{text}': '{value}' is neither a range (4.5) nor a factor (x0.8) nor a method: "
            f"{suggest(value, known)}"
        )
    if number is not None and not (0 < number < math.inf):
        raise RecipeError(f"--set '{text}': a range or factor must be above 0 and finite, {value} given")
    return RangeEdit(pattern, value)


def _read_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def edit_ranges(checkpoint: Checkpoint, edits: Iterable[RangeEdit], *, out: Path) -> tuple[EditedRange, ...]:
    """Every range that changed hands, in the model's order; the model is edited and written to ``out``.

    Edits are made in their order, a later one on what an earlier one left.

    Raises:
        CheckpointError: an edit names a method and the folder keeps no candidates.
        OutputError: ``out`` cannot be written.
        RecipeError: an edit that matches no range from data, or a method that is not among the candidates.
    """
    folder, rows = checkpoint.folder, list(list_ranges(checkpoint.model))
    found: dict[tuple[str, int], EditedRange] = {}
    for edit in edits:
        for row in _find_rows(edit, rows):
            before = found.get((row.name, row.depth))
            amax = _apply(edit, row, row.amax if before is None else before.amax, folder)
            found[row.name, row.depth] = EditedRange(row=row, amax=amax, value=edit.value)
    _set_ranges(checkpoint, found.values())
    manifest = read_manifest(folder)
    facts: dict[str, Any] = {name: fact for name, fact in manifest.items() if name not in _MANIFEST_OWN}
    given = facts.get(EDITED)
    earlier = given if isinstance(given, dict) else {}
    facts[EDITED] = {**earlier, **{name_range(*key): each.value for key, each in found.items()}}
    inputs = {"checkpoint": folder}
    save_checkpoint(checkpoint, out, stage="ranges", inputs=inputs, facts=facts, files=kept_files(folder))
    order = [(row.name, row.depth) for row in rows]
    return tuple(sorted(found.values(), key=lambda each: order.index((each.row.name, each.row.depth))))


def _find_rows(edit: RangeEdit, rows: list[RangeRow]) -> list[RangeRow]:
    matching = [row for row in rows if edit.matches(row)]
    found = [row for row in matching if row.source == "calibrated"]
    if found:
        return found
    if not matching:
        names = {row.name.partition(".")[2] for row in rows if row.source == "calibrated"}
        near = get_close_matches(edit.pattern.replace("*", ""), sorted(names), n=_NAMED, cutoff=0.0)
        raise RecipeError(f"--set '{edit.text}' matches no range: the nearest are {', '.join(near)}")
    name = matching[0].name
    if matching[0].source == "weight":
        raise RecipeError(
            f"--set '{edit.text}' matches ranges of weights only ('{name}'): they follow the weights and cannot be "
            "set; name activations"
        )
    raise RecipeError(
        f"--set '{edit.text}' matches fixed ranges only ('{name}'): attention probabilities lie in [0, 1] and keep 1"
    )


def _apply(edit: RangeEdit, row: RangeRow, amax: float, folder: Path) -> float:
    number = _read_number(edit.value.removeprefix(_FACTOR))
    if number is None:
        return choose_candidate(read_candidates(folder), edit.value)[row.name][row.depth]
    return amax * number if edit.value.startswith(_FACTOR) else number


def _set_ranges(checkpoint: Checkpoint, edited: Iterable[EditedRange]) -> None:
    quantizers = dict(named_quantizers(checkpoint.model))
    for each in edited:
        ranges = quantizers[each.row.name].amax.clone()
        ranges[each.row.depth] = torch.tensor(each.amax)
        quantizers[each.row.name].set_range(ranges)
