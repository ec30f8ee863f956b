"""An ONNX file becomes the graph that rules look at, flat, sorted and typed; or it is refused."""

from pathlib import Path

from onnx_ir.passes.common import ShapeInferencePass

from export.audit.products import list_products
from export.lint_rules.base import ENGINES
from export.lint_rules.graph import LintGraph, name_of
from export.valid_graph import read_valid_graph
from qat.quiet import quiet_logger


def read_lint_graph(path: Path, target: str) -> LintGraph:
    """The graph of a file under the rules of ``target``; its weights are not loaded.

    Raises:
        ExportError: as for ``read_valid_graph``.
    """
    valid = read_valid_graph(path)
    with quiet_logger(ShapeInferencePass.__module__):  # a shape that cannot be inferred stays unknown
        ShapeInferencePass(check_type=False, strict_mode=False, data_prop=False)(valid.model)
    return LintGraph(
        engine=ENGINES[target],
        target=target,
        model=valid.model,
        nodes=valid.nodes,
        products=list_products(valid.proto),
        named={name_of(node): node for node in valid.model.graph},
    )
