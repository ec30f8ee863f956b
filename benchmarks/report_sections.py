"""What the report's page shows, computed from the report's facts: one function a section, missing facts as ``None``."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.verdict import (
    LADDER,
    compare_speeds,
    describe_accuracy,
    describe_share,
    describe_speed,
    estimate_error,
    find_kept,
    find_paired_error,
    find_share,
    is_audited,
    is_real_int8,
    read_number,
    select_headline,
    write_span,
)
from export.audit.engine_audit import LEAST_LAYER_BYTES

Section = dict[str, Any]
Row = Mapping[str, Any]

_STAGES = {"fp32": "FP32", "ptq": "calibrated (PTQ)", "qat": "fine-tuned (QAT)", "onnx": "exported (ONNX)"}
_MOST_GROUPS = 20

_LONGEST_TAIL = 1.6
"""How far bars of latency reach: this many times the slowest median; a p99 beyond it ends at the edge."""

_COMPARED = (
    ("kernels", "fp16_kernels", "Kernels"),
    ("activation_mb", "fp16_activation_mb", "Activations, MB"),
    (
        "layer_bytes",
        "fp16_layer_bytes",
        f"Bytes a token, hidden unit and layer (least in INT8: {LEAST_LAYER_BYTES:.0f})",
    ),
)
_COUNTED = (
    ("int8_gemms", "GEMMs planned, in INT8"),
    ("float_gemms", "GEMMs planned, not in INT8"),
    ("unplanned_gemms", "GEMMs not planned"),
    ("int8_attentions", "Attentions fused, in INT8"),
    ("float_attentions", "Attentions fused, not in INT8"),
    ("split_attentions", "Attentions not fused"),
)


def build_verdict(report: Row) -> Section:
    """The headline, the sentence below it, and the four figures."""
    accuracy, engine, size = (_mapping(report, name) for name in ("accuracy", "engine", "size_mb"))
    speeds = select_headline(compare_speeds(_rows(report, "latency")), str(report.get("target") or ""))
    builder = str(engine.get("builder") or "").split()
    fp32_mb, int8_mb = read_number(size.get("fp32")), read_number(size.get("int8"))
    return {
        "headline": f"{_capitalise(describe_accuracy(accuracy))}; {describe_speed(speeds)}.",
        "lede": describe_share(engine),
        "kept": find_kept(accuracy),
        "metric": accuracy.get("metric"),
        "share": find_share(engine),
        "size_ratio": fp32_mb / int8_mb if fp32_mb and int8_mb else None,
        "speed": write_span(speeds) if speeds else None,
        "speed_runner": f"{speeds[0].runner} {speeds[0].precision}" if speeds else None,
        "baselines": " and ".join(dict.fromkeys(speed.baseline for speed in speeds)),
        "shapes": ", ".join(speed.shape for speed in speeds),
        "slower": any(round(speed.ratio, 2) < 1 for speed in speeds),
        "untimed": bool(builder) and builder[0] not in {speed.runner for speed in speeds},
    }


def build_ladder(accuracy: Row) -> Section | None:
    """The rungs that belong on the ladder, each with its standard error and its place on a common axis in percent."""
    values = {stage: read_number(accuracy.get(stage)) for stage in LADDER}
    measured = {stage: value for stage, value in values.items() if value is not None}
    if not measured:
        return None
    metric = str(accuracy.get("metric") or "metric")
    errors = {stage: estimate_error(metric, value, accuracy.get("n")) or 0.0 for stage, value in measured.items()}
    low = min(value - 1.5 * errors[stage] for stage, value in measured.items())
    high = max(value + 1.5 * errors[stage] for stage, value in measured.items())
    span = (high - low) or 1.0
    rungs = []
    for stage in LADDER:
        value, error = values[stage], errors.get(stage, 0.0)
        rung: Section = {"name": _STAGES[stage], "value": value, "error": error or None, "share": None, "whisker": None}
        rung["points"], rung["points_error"] = None, find_paired_error(accuracy, stage)
        if value is not None:
            rung["share"] = value / values["fp32"] if values["fp32"] else None
            if stage != "fp32" and values["fp32"] is not None:
                rung["points"] = 100 * (value - values["fp32"])
            places = [100 * (at - low) / span for at in (value - error, value, value + error)]
            rung["whisker"] = {"from": places[0], "at": places[1], "width": places[2] - places[0]}
        rungs.append(rung)
    return {
        "metric": metric,
        "n": accuracy.get("n"),
        "rungs": rungs,
        "has_errors": any(errors.values()),
        "has_pairs": any(rung["points_error"] is not None for rung in rungs),
        "agreement": _read_agreement(accuracy.get("agreement")),
        "agreement_exported": _read_agreement(accuracy.get("agreement_exported")),
        "percent": all(0 <= value <= 1 for value in measured.values()),
    }


def _read_agreement(agreement: object) -> object:
    """A share as it is; several facts as one line of text."""
    if isinstance(agreement, Mapping):
        return ", ".join(f"{name} {text}" for name, text in flatten_facts(agreement))
    return agreement


def build_latency(rows: Sequence[Row]) -> list[Section]:
    """One group a shape, in the order measured; bars are percent of the group's slowest p99, or cut off before it."""
    ratios = {(speed.runner, speed.precision, speed.shape): speed for speed in compare_speeds(rows)}
    groups: dict[str, list[Section]] = {}
    for row in rows:
        shape = f"{row.get('batch')}x{row.get('sequence')}"
        speed = ratios.get((str(row.get("runner")), str(row.get("precision")), shape)) if is_real_int8(row) else None
        samples = row.get("samples_ms")
        groups.setdefault(shape, []).append(
            {
                **{name: row.get(name) for name in ("runner", "precision", "samples_per_s")},
                **{name: read_number(row.get(f"{name}_ms")) for name in ("p50", "p90", "p99")},
                "int8": is_real_int8(row),
                "speed": speed,
                "slower": speed is not None and round(speed.ratio, 2) < 1,
                "taken": len(samples) if isinstance(samples, Sequence) else 0,
            }
        )
    for group in groups.values():
        slowest = max((row["p50"] or 0.0 for row in group), default=0.0)
        last = max((row["p99"] or row["p50"] or 0.0 for row in group), default=0.0)
        longest = min(last, _LONGEST_TAIL * slowest) or 1.0
        for row in group:
            row["bar"] = 100 * (row["p50"] or 0.0) / longest
            row["tail"] = max(min(100 * (row["p99"] or 0.0) / longest, 100.0) - row["bar"], 0.0)
    return [
        {"shape": shape, "rows": group, "taken": min(row["taken"] for row in group)} for shape, group in groups.items()
    ]


def build_coverage(rows: Sequence[Row]) -> Section | None:
    """What is INT8 and what is not: counts by kind, and the rows joined where only a layer's number differs."""
    if not rows:
        return None
    kinds: dict[str, list[int]] = {}
    for row in rows:
        kinds.setdefault(str(row.get("kind")), [0, 0])[0 if row.get("quantized") else 1] += 1
    return {
        "quantized": sum(1 for row in rows if row.get("quantized")),
        "total": len(rows),
        "kinds": [{"kind": kind, "yes": yes, "no": no} for kind, (yes, no) in kinds.items()],
        "no": _join_layers([row for row in rows if not row.get("quantized")]),
        "yes": _join_layers([row for row in rows if row.get("quantized")]),
    }


def build_convolutions(rows: Sequence[Row]) -> list[Section]:
    """What each convolution became in the exported graph, joined where only a layer's number differs."""
    return _join_layers(
        [{"name": row.get("module"), "kind": row.get("was"), "reason": row.get("became")} for row in rows]
    )


def _join_layers(rows: Sequence[Row]) -> list[Section]:
    joined: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        name = str(row.get("name"))
        pattern = re.sub(r"(?<=\.)\d+(?=\.)", "*", name)
        joined.setdefault((pattern, str(row.get("kind")), str(row.get("reason") or "")), []).append(name)
    return [
        {"name": pattern if len(names) > 1 else names[0], "kind": kind, "reason": reason, "count": len(names)}
        for (pattern, kind, reason), names in joined.items()
    ]


def build_engine(engine: Row) -> Section | None:
    """The audit's counts, the engine beside the same lowering in FP16, and its layer table.

    An audit that is unavailable counts nothing, so its zeros are no facts and are left out.
    """
    if not engine:
        return None
    rows = [dict(row) for row in engine.get("rows") or ()]
    found = engine if is_audited(engine) else {}
    return {
        "counts": [(label, found.get(name)) for name, label in _COUNTED],
        "compared": [(label, found.get(name), engine.get(fp16)) for name, fp16, label in _COMPARED],
        "audited": is_audited(engine) and (bool(rows) or find_share(engine) is not None),
        "share": find_share(engine),
        **{name: engine.get(name) for name in ("target", "hardware", "audit")},
        "columns": list(dict.fromkeys(column for row in rows for column in row)),
        "rows": rows,
    }


def build_sensitivity(sensitivity: Row) -> Section | None:
    """The most harmful groups first, each as a share of the error that INT8 causes; bars are percent of the largest."""
    rows, error = _rows(sensitivity, "groups"), read_number(sensitivity.get("quantized_error"))
    if not rows:
        return None
    shown: list[Section] = []
    for row in rows[:_MOST_GROUPS]:
        harm = read_number(row.get("harm"))
        share = harm / error if harm is not None and error else None
        shown.append({"name": row.get("group"), "share": share, "metric": read_number(row.get("metric"))})
    largest = max((row["share"] or 0.0 for row in shown), default=0.0) or 1.0
    for row in shown:
        row["bar"] = 100 * max(row["share"] or 0.0, 0.0) / largest
    return {
        "groups": shown,
        "left_out": len(rows) - len(shown),
        **{name: sensitivity.get(name) for name in ("rows", "metric_name", "float_metric", "quantized_metric")},
    }


def build_splits(rows: Sequence[Row]) -> str | None:
    """One sentence on the neurons that were split; None where none were."""
    pairs = [(read_number(row.get("before")), read_number(row.get("after"))) for row in rows]
    known = [(before, after) for before, after in pairs if before is not None and after is not None]
    if not known:
        return None
    before, after = max(known)
    return (
        f"feed-forward blocks whose outlier neurons are split: {len(known)}; the largest weight falls from "
        f"{before:.3g} to {after:.3g}"
    )


def flatten_facts(facts: object, prefix: str = "") -> list[tuple[str, str]]:
    """Label and text of every leaf of nested facts, in order.

    >>> flatten_facts({"cpu": {"cores": 2, "flags": ["avx2", "amx_int8"]}, "driver": None})
    [('cpu cores', '2'), ('cpu flags', 'avx2, amx_int8'), ('driver', 'not known')]
    """
    if isinstance(facts, Mapping) and facts:
        return [
            pair
            for name, value in facts.items()
            for pair in flatten_facts(value, f"{prefix} {name}".strip().replace("_", " "))
        ]
    if isinstance(facts, Sequence) and not isinstance(facts, str):
        return [(prefix, ", ".join(map(str, facts)) or "none")]
    return [(prefix, "not known" if facts is None else "none" if facts == {} else str(facts))]


def _mapping(report: Row, name: str) -> Row:
    value = report.get(name)
    return value if isinstance(value, Mapping) else {}


def _rows(report: Row, name: str) -> Sequence[Row]:
    value = report.get(name)
    return value if isinstance(value, Sequence) and not isinstance(value, str) else ()


def _capitalise(text: str) -> str:
    return text[:1].upper() + text[1:]
