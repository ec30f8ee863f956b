"""A contest's result as text of 80 columns: every row beside FP32, and the matched rows beside ours."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.peers.text import WIDTH, wrap_error

_COLUMNS = (("recipe", 28), ("as", 10), ("acc %", 6), ("to FP32", 12), ("cpu s", 5), ("x", 4), ("W/A/P", 9))
_NUMBERS = ("acc %", "to FP32", "cpu s", "x", "W/A/P")


def draw_table(result: Mapping[str, Any]) -> str:
    """The table of a result, without a line longer than 80 columns.

    Accuracy in percent; the difference to FP32 in points with its paired standard error; processor seconds of
    quantization, and those over a bare pass of the float model over the same batches; INT8 weights, activations and
    products.
    """
    lines = [_title(result), "", _line([name for name, _ in _COLUMNS]), "-" * WIDTH]
    for peer in dict.fromkeys(each["peer"] for each in result["rows"]):
        own = [each for each in result["rows"] if each["peer"] == peer]
        lines.append(_name_peer(peer, own))
        lines += [_describe(each) for each in own if not each["error"]]
        lines += _list_failures(own)
    return "\n".join([*lines, *_list_comparisons(result["compared"])])


def _title(result: Mapping[str, Any]) -> str:
    facts = result["contest"]
    return f"{facts['checkpoint']}: {result['scored']} rows scored, {facts['texts']} texts calibrate"


def _name_peer(peer: str, rows: Sequence[Mapping[str, Any]]) -> str:
    versions: Mapping[str, str] = next((each["facts"]["versions"] for each in rows if each["facts"]), {})
    listed = ", ".join(f"{name} {version}" for name, version in versions.items() if name not in ("numpy", "python"))
    return f"{peer}: {listed}"[:WIDTH] if listed else peer


def _describe(each: Mapping[str, Any]) -> str:
    facts, apart = each["facts"], each["to_float"]
    spent = facts["quantization"]
    inside = facts["inside"]
    return _line([
        f" {each['recipe']}",
        each["standing"],
        f"{100 * each['accuracy']:.2f}",
        "" if apart is None or spent is None else f"{apart['points']:+.2f} ±{apart['error']:.2f}",
        "" if spent is None else f"{spent['cpu_s']:.1f}",
        "" if spent is None else f"{spent['cpu_s'] / facts['inference']['cpu_s']:.1f}",
        "" if inside is None else f"{inside['weights']}/{inside['activations']}/{inside['products']}",
    ])  # fmt: skip


def _list_failures(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for each in rows:
        if each["error"]:
            lines += [_line([f" {each['recipe']}", each["standing"], "none"]), *wrap_error(each["error"])]
    return lines


def _list_comparisons(compared: Sequence[Mapping[str, Any]]) -> list[str]:
    if not compared:
        return []
    lines = ["", "matched placements: ours minus theirs in points; level is within two errors", "-" * WIDTH]
    for each in compared:
        verdict = "level" if not each["clear"] else "ahead" if each["points"] > 0 else "behind"
        lines.append(
            f"{each['ours'][:28]:<28} {each['peer'][:11] + ': ' + each['theirs']:<29.29}"
            f"{each['points']:+7.2f} ±{each['error']:.2f} {verdict:>6}"
        )
    return lines


def _line(cells: Sequence[str]) -> str:
    parts = []
    for (name, width), cell in zip(_COLUMNS, cells, strict=False):
        parts.append(f"{cell[:width]:>{width}}" if name in _NUMBERS else f"{cell[:width]:<{width}}")
    return " ".join(parts).rstrip()
