"""``lint``: is an ONNX graph, ours or not, ready for TensorRT 11? A walk over the graph; nothing is built or run."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx import inliner
from onnx_ir.passes.common import ShapeInferencePass

from export.audit.products import list_products
from export.graph_file import read_graph
from export.lint_rules import ENGINES, Severity, list_rules
from export.lint_rules.graph import LintGraph, name_of
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
    """The report on an ONNX file under the rules of ``tensorrt``, ``rtx`` or ``onnxruntime``.

    Weights are not loaded: only scales, zero points and the constants of masks are read.

    Raises:
        ExportError: an unknown target; no readable ONNX file; external data that is missing, too short or outside the
            folder of the file.
    """
    if target not in ENGINES:
        raise ExportError(f"lint has no rules for target '{target}': {suggest(target, ENGINES)}")
    graph = _read(Path(onnx_path), target)
    findings = [
        Finding(rule.name, issue.severity, issue.node, issue.message)
        for rule in list_rules(target)
        for issue in rule.check(graph)
    ]
    return LintReport(tuple(sorted(findings, key=lambda each: each.severity)), nodes=len(graph.nodes))


def _read(path: Path, target: str) -> LintGraph:
    """The graph of a file, flat, sorted and typed."""
    proto = read_graph(path)
    try:
        if proto.functions:
            proto = inliner.inline_local_functions(proto)
        model = ir.from_proto(proto)
        ir.external_data.set_base_dir(model.graph, path.parent)
        for graph in model.graphs():
            graph.sort()
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        said = " ".join(str(error).split())
        raise ExportError(f"{path} holds no valid ONNX graph ({said}); export it again") from error
    nodes = tuple(ir.traversal.RecursiveGraphIterator(model.graph))
    _require_inputs(path, model, nodes)
    _require_data(path, model)
    ShapeInferencePass(check_type=False, strict_mode=False, data_prop=False)(model)
    return LintGraph(
        engine=ENGINES[target],
        target=target,
        model=model,
        nodes=nodes,
        products=list_products(proto),
        named={name_of(node): node for node in model.graph},
    )


def _require_inputs(path: Path, model: ir.Model, nodes: tuple[ir.Node, ...]) -> None:
    """Passes when every node has the inputs that its operator cannot do without."""
    opset = model.opset_imports.get("", 1)
    for node in nodes:
        if node.domain != "":
            continue
        try:
            schema = onnx.defs.get_schema(node.op_type, opset, "")
        except onnx.defs.SchemaError:  # not in this opset, which is a rule's to say
            continue
        if len(node.inputs) < schema.min_input or len(node.outputs) < schema.min_output:
            raise ExportError(
                f"{path} holds no valid ONNX graph: {node.op_type} '{name_of(node)}' has {len(node.inputs)} inputs and "
                f"{len(node.outputs)} outputs, it needs {schema.min_input} and {schema.min_output}; export it again"
            )


def _require_data(path: Path, model: ir.Model) -> None:
    """Passes when every external tensor lies, whole, in a file of the same folder."""
    folder = path.parent.resolve()
    for tensor in _external_tensors(model):
        given = f"{path} keeps '{tensor.name}' in '{tensor.location}'"
        file = (folder / tensor.location).resolve()
        if not file.is_relative_to(folder):
            raise ExportError(f"{given}, outside its folder {folder}: builders refuse that; copy the file beside it")
        if not file.is_file():
            raise ExportError(f"{given}, which is not in {folder}; copy the file there, or export again")
        needed = (tensor.offset or 0) + tensor.nbytes
        if file.stat().st_size < needed:
            raise ExportError(f"{given}, which has {file.stat().st_size} bytes of {needed}; copy the file again")
        if file.stat().st_nlink > 1:
            raise ExportError(f"{given}, which has several hard links, and ONNX refuses to read it; copy the file")


def _external_tensors(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    for graph in model.graphs():
        constants = [value.const_value for value in graph.initializers.values()]
        for node in graph:
            held = [each for each in node.attributes.values() if each.type == ir.AttributeType.TENSOR]
            constants.extend(each.as_tensor() for each in held)
        yield from (each for each in constants if isinstance(each, ir.ExternalTensor))
