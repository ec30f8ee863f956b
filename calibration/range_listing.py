"""The ranges of a checkpoint with what is known of their tensors, and how two checkpoints' ranges differ."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibration.evidence import Evidence, TensorEvidence
from calibration.range_rows import RangeRow
from calibration.settings import ALL, BEST
from qat.artefacts import read_manifest

EDITED = "edited"
"""What a manifest calls the ranges that were set by hand, by ``name_range``, with what they were set to."""


_EVIDENCE = (
    *("largest", "zeros", "saturated", "sqnr_db", "levels"),
    *("channels", "dead", "outliers", "outlier_dimensions", "estimated"),
)


def name_range(name: str, depth: int) -> str:
    """One range of a quantizer, as edits name it.

    >>> name_range("layer.ffn_quantizer", 2)
    'layer.ffn_quantizer:2'
    """
    return f"{name}:{depth}"


def find_evidence(row: RangeRow, evidence: Evidence) -> TensorEvidence | None:
    """What is known of the tensor of a range; None for weights, fixed ranges and where nothing was kept."""
    found = evidence.get(row.name, ())
    return found[row.depth] if row.depth < len(found) else None


def describe_range(row: RangeRow, found: TensorEvidence | None) -> dict[str, Any]:
    """JSON values of a range and its tensor; what is not known is None."""
    told: dict[str, Any] = {"name": row.name, "role": row.role, "layer": row.layer, "depth": row.depth}
    told |= {"source": row.source, "amax": row.amax, "scale": row.scale}
    if found is None:
        return told | dict.fromkeys(_EVIDENCE)
    figures = found.judge(row.amax, row.scale)
    return told | {
        "largest": found.largest,
        "zeros": found.zeros,
        "saturated": figures.saturated,
        "sqnr_db": figures.sqnr_db,
        "levels": figures.levels,
        "channels": found.channels.total,
        "dead": figures.dead,
        "outliers": found.outliers,
        "outlier_dimensions": {str(channel): peak for channel, peak in found.named.items()},
        "estimated": figures not in found.figures,
    }


def find_methods(folder: Path) -> Callable[[RangeRow], str | None]:
    """How a range was found or what it was set to, as the folder's manifest tells; None where it does not."""
    manifest: Mapping[str, Any] = read_manifest(folder)
    edited, calibrated, finetuned = (
        found if isinstance(found := manifest.get(name), dict) else {} for name in (EDITED, "calibration", "finetune")
    )
    method = calibrated.get("method")
    usual = BEST if method == ALL else method
    if finetuned.get("ranges") == "learned":
        usual = "learned"
    return lambda row: edited.get(name_range(row.name, row.depth), usual)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangedRange:
    """A range that both checkpoints have, here and there; the ratio is None where one of the two is zero."""

    row: RangeRow
    there: float
    ratio: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class RangeDifference:
    """How the ranges of two checkpoints differ: the largest change first, and the quantizers only one of them has."""

    changed: tuple[ChangedRange, ...]
    unchanged: int
    only_here: tuple[str, ...]
    only_there: tuple[str, ...]


def compare_ranges(here: Iterable[RangeRow], there: Iterable[RangeRow]) -> RangeDifference:
    """The difference, with ``ratio`` there by here.

    >>> row = RangeRow(name="layer.3.ffn_quantizer", source="calibrated", depth=0, amax=2.0, scale=0.02)
    >>> other = RangeRow(name="layer.3.ffn_quantizer", source="calibrated", depth=0, amax=3.0, scale=0.02)
    >>> compare_ranges([row], [other]).changed[0].ratio
    1.5
    """
    first, second = ({(row.name, row.depth): row for row in rows} for rows in (here, there))
    both = [
        ChangedRange(row=row, there=second[key].amax, ratio=_divide(second[key].amax, row.amax))
        for key, row in first.items()
        if key in second
    ]
    changed = [each for each in both if each.there != each.row.amax]
    return RangeDifference(
        changed=tuple(sorted(changed, key=_change, reverse=True)),
        unchanged=len(both) - len(changed),
        only_here=_missing(first.values(), second.values()),
        only_there=_missing(second.values(), first.values()),
    )


def _divide(there: float, here: float) -> float | None:
    return there / here if here > 0 and there > 0 else None


def _change(each: ChangedRange) -> float:
    return math.inf if each.ratio is None else abs(math.log(each.ratio))


def _missing(rows: Iterable[RangeRow], others: Iterable[RangeRow]) -> tuple[str, ...]:
    """The quantizers among ``rows`` that ``others`` lacks, and those that have more depths."""
    known = {name_range(row.name, row.depth) for row in others}
    names = {row.name for row in others}
    lacking = (row for row in rows if name_range(row.name, row.depth) not in known)
    return tuple(
        dict.fromkeys(row.name if row.name not in names else name_range(row.name, row.depth) for row in lacking)
    )


def describe_difference(difference: RangeDifference) -> dict[str, Any]:
    """JSON values of it."""
    changed: Sequence[dict[str, Any]] = [
        {
            "name": each.row.name,
            "depth": each.row.depth,
            "source": each.row.source,
            "amax": each.row.amax,
            "there": each.there,
            "ratio": each.ratio,
        }
        for each in difference.changed
    ]
    return {
        "changed": changed,
        "unchanged": difference.unchanged,
        "only_here": list(difference.only_here),
        "only_there": list(difference.only_there),
    }
