"""What the rows that stand for their kind cost, as text of 80 columns: size, speed, plans, training steps, lines."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.peers.costs import pair_times
from benchmarks.peers.plan import SHAPE
from benchmarks.peers.text import WIDTH, wrap_error

_NAME = 28


def draw_costs(result: Mapping[str, Any]) -> str:
    """The tables of what a result's rows cost, without a line longer than 80 columns; empty where nothing was measured.

    Speed is by how many times the quantized model is faster than the FP32 one of the same runtime, processor time of
    one thread, the median of pairs and half the distance of their quartiles.
    """
    rows = [each for each in result["rows"] if each["costs"] is not None]
    parts = (_list_speeds(rows), _list_plans(rows), _list_steps(result["training"]), _list_written(result["written"]))
    return "\n\n".join("\n".join(part) for part in parts if part)


def _list_speeds(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    found = [each for each in rows if each["costs"]["latency"] or "latency" in each["costs"]["errors"]]
    if not found:
        return []
    shapes = list(dict.fromkeys(shape for each in found for shape in each["costs"]["latency"]))
    head = f"{'':<{_NAME}} {'MB':>6}" + "".join(f" {shape:>10}" for shape in shapes)
    lines = ["times faster than FP32 in the same runtime, by batch x tokens", head, "-" * WIDTH]
    for each in found:
        size = (each["facts"]["inside"] or {}).get("file_bytes")
        ratios = [pair_times(each["costs"]["latency"][shape]) for shape in shapes if each["costs"]["latency"]]
        cells = "".join(f"{ratio.times:.2f} ±{ratio.spread:.2f}".rjust(11) for ratio in ratios)
        lines.append(f"{_name(each)} {_size(size)}{cells}".rstrip())
        lines += _explain(each, "latency")
    return lines


def _list_plans(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    found = [each for each in rows if each["costs"]["plan"] or "plan" in each["costs"]["errors"]]
    if not found:
        return []
    lines = [
        f"TensorRT for RTX at {SHAPE[0]}x{SHAPE[1]}: products in INT8 / planned but float / float,",
        "attentions fused in INT8 / fused in float / split, kernels, activation MB",
        f"{'':<{_NAME}} {'MB':>6} {'rest':>5} {'GEMMs':>9} {'attention':>9} {'kernels':>7} {'MB':>7}",
        "-" * WIDTH,
    ]
    for each in found:
        plan = each["costs"]["plan"]
        if plan:
            gemms = "/".join(str(plan[name]) for name in ("int8_gemms", "float_gemms", "unplanned_gemms"))
            fused = "/".join(str(plan[name]) for name in ("int8_attentions", "float_attentions", "split_attentions"))
            moved = "-" if plan["activation_mb"] is None else f"{plan['activation_mb']:.1f}"
            size = each["facts"]["inside"]["file_bytes"]
            name = f"{_name(each)} {_size(size)} {plan['rest']:>5}"
            lines.append(f"{name} {gemms:>9} {fused:>9} {plan['kernels']:>7} {moved:>7}")
        else:
            lines += [_name(each).rstrip(), *_explain(each, "plan")]
    return lines


def _list_steps(training: Mapping[str, Any] | None) -> list[str]:
    if training is None:
        return []
    lines = [f"{'training step, times the float one':<{_NAME + 10}} {'ratio':>12} {'ms':>8}", "-" * WIDTH]
    for each in training["costs"]:
        ratio = f"{each['ratio']:.2f} ±{each['spread']:.2f}"
        lines.append(f"{each['name']:<{_NAME + 10}} {ratio:>12} {each['milliseconds']:>8.0f}")
    return lines + (wrap_error(training["error"]) if training["error"] else [])


def _list_written(written: Sequence[Mapping[str, Any]]) -> list[str]:
    if not written:
        return []
    lines = [f"{'a user writes':<{_NAME + 10}} {'lines':>12} {'wall s':>8}", "-" * WIDTH]
    for each in written:
        took = "none" if each["wall_s"] is None else f"{each['wall_s']:.0f}"
        lines.append(f"{each['peer'] + ': ' + each['file']:<{_NAME + 10}} {each['lines']:>12} {took:>8}")
        lines += wrap_error(each["error"]) if each["error"] else []
    return lines


def _explain(each: Mapping[str, Any], what: str) -> list[str]:
    error = each["costs"]["errors"].get(what)
    return [] if error is None else wrap_error(error)


def _name(each: Mapping[str, Any]) -> str:
    return f"{each['peer'] + ': ' + each['recipe']:<{_NAME}.{_NAME}}"


def _size(file_bytes: int | None) -> str:
    return f"{'-':>6}" if file_bytes is None else f"{file_bytes / 1e6:>6.1f}"
