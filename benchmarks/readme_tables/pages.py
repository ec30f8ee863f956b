"""The page beside a result file: the same figures, to be read; lists of raw samples stay in the JSON."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.result import draw_tables
from benchmarks.readme_tables.markdown import draw_rows
from benchmarks.readme_tables.registry import Result

_MOST_ROWS, _MOST_VALUES, _MOST_LETTERS = 50, 6, 120


def draw_page(path: Path, result: Result) -> str:
    """The Markdown of the result at ``path``: a contest of peers as its own tables, others fact by fact.

    Numbers have five significant digits. A list of rows is a table, where it is not too long to be read; what a row
    says beside numbers and short texts (raw answers, settings) is left to the JSON file.
    """
    if "contest" in result:
        return draw_tables(result)
    facts = [[label, text] for label, value in _walk(_without(result, "environment")) if (text := _write(value))]
    machine = "; ".join(f"{label} {_write(value)}" for label, value in _walk(result.get("environment", {})))
    parts = [f"# {path.stem}", machine, draw_rows(("fact", "value"), facts).rstrip()]
    for label, rows in _walk(result):
        if _holds_rows(rows):
            parts += [f"## {label}", _draw_list(rows).rstrip()]
    return "\n\n".join(filter(None, parts)) + "\n"


def _without(result: Result, name: str) -> Result:
    return {key: value for key, value in result.items() if key != name}


def _walk(value: object, label: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf with the names that lead to it; a list is a leaf."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _walk(item, f"{label} {name}".strip())
    else:
        yield label, value


def _holds_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _draw_list(rows: Sequence[Mapping[str, Any]]) -> str:
    if len(rows) > _MOST_ROWS:
        return f"{len(rows)} rows, in the JSON file."
    told = [dict(_flatten(row)) for row in rows]
    columns = list(dict.fromkeys(name for row in told for name in row))
    return draw_rows(
        columns, [["" if row.get(name) is None else _write(row[name]) for name in columns] for row in told]
    )


def _flatten(row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The numbers and short texts of a row, and of the mappings in it."""
    for name, value in row.items():
        inner = value.items() if isinstance(value, Mapping) else [("", value)]
        for also, leaf in inner:
            if isinstance(leaf, bool | int | float | str) and len(str(leaf)) <= _MOST_LETTERS:
                yield f"{name} {also}".strip(), leaf


def _write(value: object) -> str:
    """A fact as text, empty for a list of rows.

    >>> [_write(value) for value in (0.123456789, 61, None, [], ["a", "b"], list(range(80)), [{"a": 1}])]
    ['0.12346', '61', '-', 'none', 'a, b', '80 values, in the JSON file', '']
    """
    if _holds_rows(value):
        return ""
    if value is None:
        return "-"
    if isinstance(value, list):
        listed = ", ".join(map(_write, value)) or "none"
        return listed if len(value) <= _MOST_VALUES else f"{len(value)} values, in the JSON file"
    return f"{value:.5g}" if isinstance(value, float) else str(value)
