"""An ONNX file whose graph holds together, or a refusal: on another, a builder's parser may end the whole process."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx import inliner

from export.graph_file import read_graph
from export.lint_rules.graph import name_of
from qat.errors import ExportError

_LAST_OPSET = 1000  # beyond any, and still a number that ONNX's own table of operators takes


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidGraph:
    """A graph with its local functions inlined and its nodes in order; ``nodes`` holds those of branches too."""

    proto: onnx.ModelProto
    model: ir.Model
    nodes: tuple[ir.Node, ...]


def read_valid_graph(path: Path) -> ValidGraph:
    """The graph of a file; its external weights are not loaded.

    Raises:
        ExportError: no readable ONNX file, a graph that contradicts itself, or external data that is missing, too
            short, or outside the folder of the file.
    """
    proto = read_graph(path)
    _require_names(path, proto.graph, frozenset())
    try:
        if proto.functions:
            proto = inliner.inline_local_functions(proto)
        model = ir.from_proto(proto)
        ir.external_data.set_base_dir(model.graph, path.parent)
        for graph in model.graphs():
            graph.sort()
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise _refuse(path, " ".join(str(error).split())) from error
    nodes = tuple(ir.traversal.RecursiveGraphIterator(model.graph))
    _require_signatures(path, model, nodes)
    for tensor in _list_tensors(model):
        _require_data(path, tensor)
    return ValidGraph(proto=proto, model=model, nodes=nodes)


def _refuse(path: Path, why: str) -> ExportError:
    return ExportError(f"{path} holds no valid ONNX graph ({why}); export it again")


def _require_names(path: Path, graph: onnx.GraphProto, outer: frozenset[str]) -> None:
    """Passes when everything that is read is an input, a weight, or made by a node; in branches and loops too."""
    stored = [tensor.name for tensor in graph.initializer] + [each.values.name for each in graph.sparse_initializer]
    made = [name for node in graph.node for name in node.output]
    known = outer.union(stored, made, (value.name for value in graph.input))
    for node in graph.node:
        if any(isinstance(text, bytes) for text in (node.op_type, node.domain, node.name, *node.input, *node.output)):
            raise _refuse(path, f"the names of '{node.name}' are no text")
        if not node.output:
            raise _refuse(path, f"{node.op_type or 'a node'} '{node.name}' makes nothing")
        for name in node.input:
            if name and name not in known:
                raise _refuse(path, f"{node.op_type} '{node.name}' reads '{name}', which nothing makes")
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _require_names(path, inner, known)
    for value in graph.output:
        if value.name not in known:
            raise _refuse(path, f"its output '{value.name}' is made by nothing")


def _require_signatures(path: Path, model: ir.Model, nodes: tuple[ir.Node, ...]) -> None:
    """Passes when every node has the inputs and attributes that its operator cannot do without."""
    opset = model.opset_imports.get("", 1)
    if not 1 <= opset <= _LAST_OPSET:
        raise _refuse(path, f"opset {opset} is none")
    for node in nodes:
        if node.domain != "" or not onnx.defs.has(node.op_type, opset, ""):  # not in this opset: a rule's to say
            continue
        schema = onnx.defs.get_schema(node.op_type, opset, "")
        given = f"{node.op_type} '{name_of(node)}'"
        if len(node.inputs) < schema.min_input or len(node.outputs) < schema.min_output:
            least = f"{schema.min_input} and {schema.min_output}"
            raise _refuse(path, f"{given} has {len(node.inputs)} inputs and {len(node.outputs)} outputs, not {least}")
        for name, attribute in schema.attributes.items():
            if attribute.required and name not in node.attributes:
                raise _refuse(path, f"{given} has no attribute '{name}'")
        if node.op_type == "Constant" and [name in schema.attributes for name in node.attributes] != [True]:
            raise _refuse(path, f"{given} has not one value but {', '.join(node.attributes) or 'none'}")


def _list_tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Every tensor that the file or its external data hold."""
    for graph in model.graphs():
        yield from (value.const_value for value in graph.initializers.values() if value.const_value is not None)
        for node in graph:
            held = [each for each in node.attributes.values() if each.type == ir.AttributeType.TENSOR]
            yield from (each.as_tensor() for each in held)


def _require_data(path: Path, tensor: ir.TensorProtocol) -> None:
    """Passes when a tensor of the file itself is all there; those in other files were looked at on reading."""
    if isinstance(tensor, ir.ExternalTensor):
        return
    try:
        tensor.numpy()
    except (ValueError, TypeError) as error:
        raise _refuse(path, f"'{tensor.name}' does not hold what its type and shape say: {error}") from error
