"""The report of a journey on disk: ``report.json`` with every fact, ``report.html`` for reading, printing and mailing.

The page needs no network and no script. All text that comes from data (names, labels, paths) is escaped by the
template engine; what was not measured is called "not measured". ``python -m benchmarks.report_command`` draws it anew.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks import report_sections as sections
from benchmarks.report_ranges import build_ranges
from qat.artefacts import atomic_files, format_json

JSON_NAME = "report.json"
HTML_NAME = "report.html"

NOT_MEASURED = "not measured"

_IDENTITY = ("family", "task", "recipe", "target", "granularity", "precision")
_SECTIONS = (
    "accuracy",
    "latency",
    "engine",
    "size_mb",
    "settings",
    "sensitivity",
    "ranges",
    "equalization",
    "split_neurons",
    "coverage",
    "convolutions",
    "environment",
    "timings_s",
)
_KNOWN = ("checkpoint", *_IDENTITY, *_SECTIONS)


def write_report(folder: Path, report: Mapping[str, Any]) -> Path:
    """The path of ``report.html`` in ``folder``, written beside ``report.json``; the folder's other files stay.

    Args:
        folder: made where it is missing.
        report: the facts, by section: checkpoint, family, task, recipe, target, granularity, precision; accuracy,
            latency, engine, size_mb, settings, sensitivity, ranges, equalization, split_neurons, coverage,
            convolutions, environment, timings_s. Any may be missing or ``None``; sections of other names are listed as
            they are. A number that is not finite is written as ``null`` and its place named under ``not_finite``.

    Raises:
        OutputError: the folder cannot be written.
    """
    facts = make_plain(report)
    page = render_page(facts)
    with atomic_files(Path(folder) / JSON_NAME, Path(folder) / HTML_NAME) as staging:
        (staging / JSON_NAME).write_text(format_json(facts), encoding="utf-8")
        (staging / HTML_NAME).write_text(page, encoding="utf-8")
    return Path(folder) / HTML_NAME


def make_plain(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report as JSON values only; numbers that are not finite become ``None`` and are named in ``not_finite``.

    >>> make_plain({"accuracy": {"n": np.int64(4), "qat": float("nan")}})
    {'accuracy': {'n': 4, 'qat': None}, 'not_finite': ['accuracy.qat']}
    """
    wild: list[str] = []
    plain = {str(name): _plain(value, str(name), wild) for name, value in report.items()}
    return {**plain, "not_finite": wild} if wild else plain


def _plain(value: object, place: str, wild: list[str]) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(name): _plain(item, f"{place}.{name}", wild) for name, item in value.items()}
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, str | bytes):
        return [_plain(item, f"{place}[{index}]", wild) for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        wild.append(place)
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def render_page(report: Mapping[str, Any]) -> str:
    """The whole HTML page of a report of plain JSON values."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=write_percent, number=write_number)
    timings = report.get("timings_s") or {}
    further = {name: value for name, value in report.items() if name not in _KNOWN}
    context = {
        "title": Path(str(report.get("checkpoint") or "checkpoint")).name,
        "checkpoint": report.get("checkpoint"),
        "date": str((report.get("environment") or {}).get("date") or "")[:10],
        "identity": [(name, report.get(name)) for name in _IDENTITY],
        "weights": str(report.get("granularity") or "granularity not stated:").replace("_", "-"),
        "verdict": sections.build_verdict(report),
        "ladder": sections.build_ladder(report.get("accuracy") or {}),
        "latency": sections.build_latency(report.get("latency") or []),
        "size": report.get("size_mb") or {},
        "settings": sections.flatten_facts(report["settings"]) if report.get("settings") else [],
        "sensitivity": sections.build_sensitivity(report.get("sensitivity") or {}),
        "splits": sections.build_splits(report.get("split_neurons") or []),
        "ranges": build_ranges(report.get("ranges") or []),
        "equalization": report.get("equalization"),
        "coverage": sections.build_coverage(report.get("coverage") or []),
        "convolutions": sections.build_convolutions(report.get("convolutions") or []),
        "engine": sections.build_engine(report.get("engine") or {}),
        "environment": sections.flatten_facts(report["environment"]) if report.get("environment") else [],
        "timings": list(timings.items()),
        "further": sections.flatten_facts(further) if further else [],
    }
    return environment.get_template("report_template.html").render(context)


def write_percent(share: object, digits: int = 1) -> str:
    r"""A share as a percentage; other values as :func:`write_number` writes them.

    >>> write_percent(0.8414), write_percent(None)
    ('84.1\xa0%', 'not measured')
    """
    if isinstance(share, bool) or not isinstance(share, int | float):
        return write_number(share)
    return f"{100 * share:.{digits}f}\u00a0%"


def write_number(value: object) -> str:
    """A number with three or more significant digits, whole numbers whole; text as it is.

    >>> [write_number(value) for value in (0.01234, 1.5, 12.345, 1234.5, 72, None, "sm_89")]
    ['0.0123', '1.50', '12.3', '1,234', '72', 'not measured', 'sm_89']
    """
    if value is None:
        return NOT_MEASURED
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(write_number, value)) or "none"
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    digits = max(2 - math.floor(math.log10(abs(value))), 0)
    return f"{value:.{min(digits, 8)}f}"
