"""What an audit of a CPU runtime tells: every product of the ONNX graph, and what runs it."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeRow:
    """One product of the ONNX graph: whether INT8 was planned, what runs it, why it is not INT8 (empty where it is)."""

    name: str
    planned: bool
    operation: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeAudit:
    """A runtime's products: INT8, planned but float, and the rest; ``operations`` counts the graph it runs."""

    int8_gemms: int
    float_gemms: int
    unplanned_gemms: int
    operations: Mapping[str, int]
    version: str
    rows: tuple[RuntimeRow, ...]


def count_rows(rows: tuple[RuntimeRow, ...]) -> dict[str, int]:
    """The three counts of an audit with these rows."""
    return {
        "int8_gemms": sum(not row.reason for row in rows),
        "float_gemms": sum(bool(row.reason) and row.planned for row in rows),
        "unplanned_gemms": sum(bool(row.reason) and not row.planned for row in rows),
    }
