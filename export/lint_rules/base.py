"""What a rule is, and the table of all rules."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from export.lint_rules.graph import LintGraph, name_of

Severity = Literal["error", "warning"]

ENGINES = {"tensorrt": "TensorRT", "rtx": "TensorRT for RTX", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
"""The targets with rules, each with what messages call it."""

TENSORRT = ("tensorrt", "rtx")
EVERY = tuple(ENGINES)


@dataclass(frozen=True)
class Issue:
    """What a rule found at one node."""

    severity: Severity
    node: str
    message: str


Check = Callable[[LintGraph], Iterator[Issue]]


@dataclass(frozen=True)
class Rule:
    """A check under its name, and the targets whose engines mind."""

    name: str
    targets: tuple[str, ...]
    check: Check


_RULES: dict[str, Rule] = {}


def rule(name: str, *, targets: tuple[str, ...] = EVERY) -> Callable[[Check], Check]:
    """A decorator that enters a check into the table; a second one of that name is an error."""

    def register(check: Check) -> Check:
        if name in _RULES:
            raise ValueError(f"lint rule '{name}' is registered twice")
        _RULES[name] = Rule(name, targets, check)
        return check

    return register


def list_rules(target: str | None = None) -> tuple[Rule, ...]:
    """The rules of a target, or all of them, in the order they are checked."""
    return tuple(each for each in _RULES.values() if target is None or target in each.targets)


def error(node: ir.Node | str, message: str) -> Issue:
    """What the engine refuses, what it computes wrongly, or what is no valid ONNX."""
    return Issue("error", node if isinstance(node, str) else name_of(node), message)


def warning(node: ir.Node | str, message: str) -> Issue:
    """What runs, but larger, slower or in another type than was meant."""
    return Issue("warning", node if isinstance(node, str) else name_of(node), message)
