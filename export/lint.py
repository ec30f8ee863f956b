"""``lint``: is an ONNX graph, ours or not, ready for TensorRT 11? A walk over the graph; nothing is built or run."""

from dataclasses import dataclass
from pathlib import Path

from export.lint_rules import ENGINES, Severity, list_rules
from export.lint_rules.reading import read_lint_graph
from qat.errors import ExportError, suggest

__all__ = ["Finding", "LintReport", "lint"]


@dataclass(frozen=True)
class Finding:
    """One broken rule.

    Attributes:
        rule: the rule's name.
        severity: ``error`` for what the engine refuses or computes wrongly and for what is no valid ONNX, ``warning``
            for what runs, but slower, larger or in another type than was meant.
        node: the node's name (the input's, for an axis).
        message: what is wrong, why the engine minds, what to do; one line.
    """

    rule: str
    severity: Severity
    node: str
    message: str


@dataclass(frozen=True)
class LintReport:
    """The findings, errors first, and how many nodes were looked at."""

    findings: tuple[Finding, ...]
    nodes: int


def lint(onnx_path: Path | str, *, target: str = "tensorrt") -> LintReport:
    """The report on an ONNX file under the rules of ``tensorrt``, ``rtx``, ``onnxruntime`` or ``openvino``.

    Weights are not loaded: only scales, zero points and the constants of masks are read.

    Raises:
        ExportError: an unknown target; no readable ONNX file; external data that is missing, too short or outside the
            folder of the file.
    """
    if target not in ENGINES:
        raise ExportError(f"lint has no rules for target '{target}': {suggest(target, ENGINES)}")
    graph = read_lint_graph(Path(onnx_path), target)
    findings = [
        Finding(rule.name, issue.severity, issue.node, issue.message)
        for rule in list_rules(target)
        for issue in rule.check(graph)
    ]
    return LintReport(tuple(sorted(findings, key=lambda each: each.severity)), nodes=len(graph.nodes))
