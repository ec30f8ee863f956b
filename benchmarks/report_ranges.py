"""The report's section of ranges: what passes through each tensor, depth by depth, and how its range fits it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.report_charts import Ridge, draw_depths, draw_ridges
from benchmarks.verdict import read_number
from calibration.log_counts import LogCounts

Section = dict[str, Any]
Row = Mapping[str, Any]

_TOLD = ("name", "role", "depth", "largest", "saturated", "sqnr_db", "dead", "outliers", "channels")


def build_ranges(rows: Sequence[Row]) -> Section | None:
    """What the section shows.

    A panel for each role whose range moves with depth, a line for those that have one, a line on how each activation's
    ranges fit, the largest amax by role and depth, and every row.
    """
    flat: list[Section] = [{**{key: row.get(key) for key in _TOLD}, "amax": _peak(row.get("amax"))} for row in rows]
    points: dict[str, list[tuple[int, float]]] = {}
    for row in flat:
        if isinstance(row["depth"], int) and (row["amax"] or 0.0) > 0:
            points.setdefault(str(row["role"]), []).append((row["depth"], row["amax"]))
    if not flat:
        return None
    every = [amax for values in points.values() for _, amax in values]
    limits = (min(every), max(every)) if every else (1.0, 1.0)
    ridges = _collect_ridges(rows)
    still = {role: values for role, values in points.items() if role not in ridges}
    moving = [role for role, values in still.items() if len({amax for _, amax in values}) > 1]
    panels = [
        {"role": role, "svg": draw_depths(still[role], limits=limits, name=f"ranges-{place}")}
        for place, role in enumerate(moving)
    ]
    constant = [{"role": role, "amax": values[0][1]} for role, values in still.items() if role not in moving]
    depths = sorted({depth for values in points.values() for depth, _ in values})
    table = [
        {"role": role, "cells": [_shade_peak(values, depth, limits) for depth in depths]}
        for role, values in points.items()
    ]
    return {
        "ridges": _draw_panels(ridges),
        "fits": [_summarize_fit(role, [row for row in flat if row["role"] == role]) for role in ridges],
        "panels": panels,
        "constant": constant,
        "depths": depths,
        "table": table,
        "rows": flat,
    }


def _collect_ridges(rows: Sequence[Row]) -> dict[str, list[Ridge]]:
    """By role, the histograms there are, with their ranges."""
    found: dict[str, list[Ridge]] = {}
    for row in rows:
        stored, depth, amax = row.get("histogram"), row.get("depth"), read_number(row.get("amax"))
        if not (isinstance(stored, Mapping) and stored.get("counts") and isinstance(depth, int) and amax):
            continue
        bins = LogCounts.from_dict(stored)
        ridge = Ridge(depth=depth, edges=bins.edges().tolist(), counts=bins.counts, amax=amax)
        found.setdefault(str(row.get("role")), []).append(ridge)
    return found


def _draw_panels(ridges: Mapping[str, Sequence[Ridge]]) -> list[Section]:
    highest = max((ridge.edges[-1] for found in ridges.values() for ridge in found), default=1.0)
    depths = [ridge.depth for found in ridges.values() for ridge in found]
    limits = (min(depths, default=0), max(depths, default=0))
    return [
        {"role": role, "svg": draw_ridges(found, highest=highest, depths=limits, name=f"ridges-{place}")}
        for place, (role, found) in enumerate(ridges.items())
    ]


def _summarize_fit(role: str, rows: Sequence[Row]) -> Section:
    """The worst of a role's depths, each with the depth it is found at."""
    return {
        "role": role,
        "saturated": _extreme(rows, "saturated", largest=True),
        "sqnr_db": _extreme(rows, "sqnr_db", largest=False),
        "dead": _extreme(rows, "dead", largest=True),
        "outliers": _extreme(rows, "outliers", largest=True),
        "channels": max((int(row["channels"]) for row in rows if row["channels"] is not None), default=None),
    }


def _extreme(rows: Sequence[Row], name: str, *, largest: bool) -> Section:
    """The extreme value of a figure and its depth; no depth where every row has the same."""
    values = [(value, row["depth"]) for row in rows if (value := read_number(row[name])) is not None]
    if not values:
        return {"value": None, "depth": None}
    value, depth = max(values, key=lambda pair: pair[0]) if largest else min(values, key=lambda pair: pair[0])
    return {"value": value, "depth": depth if len({each for each, _ in values}) > 1 else None}


def _shade_peak(values: Sequence[tuple[int, float]], depth: int, limits: tuple[float, float]) -> Section:
    peaks = [amax for at, amax in values if at == depth]
    if not peaks:
        return {"amax": None, "heat": 0.0}
    span = math.log(limits[1] / limits[0]) or 1.0
    return {"amax": max(peaks), "heat": math.log(max(peaks) / limits[0]) / span}


def _peak(amax: object) -> float | None:
    """The largest of a channel list, or the number itself."""
    if isinstance(amax, Sequence) and not isinstance(amax, str):
        return max((number for value in amax if (number := read_number(value)) is not None), default=None)
    return read_number(amax)
