"""The rules of ``lint``, one file a subject; importing this package registers them, in the order they are checked.

A new rule is one function with ``@rule``, a graph that breaks it and a twin that does not among the tests.
"""

from export.lint_rules import (
    attention,
    casts,
    interface,
    operators,
    opset,
    products,
    saturation,
    scales,
    weights,
    zero_points,
)
from export.lint_rules.base import ENGINES, Issue, Rule, Severity, list_rules

__all__ = [
    "ENGINES", "Issue", "Rule", "Severity", "attention", "casts", "interface", "list_rules", "operators", "opset",
    "products", "saturation", "scales", "weights", "zero_points",
]  # fmt: skip
