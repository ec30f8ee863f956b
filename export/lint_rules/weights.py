"""Weights: stored in the type they are computed in."""

from collections.abc import Iterator

import onnx_ir as ir

from export.lint_rules.base import TENSORRT, Issue, error, rule, warning
from export.lint_rules.graph import (
    HALF,
    PRODUCTS,
    LintGraph,
    format_size,
    input_of,
    is_half,
    is_stored,
    size_of,
    skip_moves,
)
from export.passes.qdq_nodes import QUANTIZE


@rule("float32-weight", targets=TENSORRT)
def check_precision(graph: LintGraph) -> Iterator[Issue]:
    """In a graph of FP16 the weights are FP16."""
    if not any(node.outputs[0].dtype in HALF for node in graph.of_type(*PRODUCTS)):
        return
    seen = set[ir.Value]()
    for node in graph.of_type(*PRODUCTS, "Gather"):
        operands = node.inputs[: 1 if node.op_type == "Gather" else 2]
        for operand in operands:
            source = skip_moves(operand, "Cast")
            if source is None or source in seen or not _is_float_weight(source):
                continue
            seen.add(source)
            size = f"the weight '{source.name}' stays FP32 ({format_size(size_of(source) or 0, 4)}) in a graph of FP16"
            if any(each is not operand and is_half(each) for each in operands) and not is_half(operand):
                yield error(
                    node,
                    f"{size} and meets an FP16 operand: {graph.engine} refuses a product of two types; "
                    "store the weight as FP16",
                )
            else:
                yield warning(
                    node,
                    f"{size}: {graph.engine} is strongly typed and computes in FP32 where the graph does, and the file "
                    "is larger than needed; store the weight as FP16",
                )


def _is_float_weight(value: ir.Value) -> bool:
    """Whether the file holds it as FP32, and it is no scalar and no vector."""
    return is_stored(value) and value.dtype == ir.DataType.FLOAT and value.shape is not None and len(value.shape) > 1


@rule("unfolded-weight")
def check_folding(graph: LintGraph) -> Iterator[Issue]:
    """Weights are stored as INT8."""
    for node in graph.of_type(QUANTIZE):
        source = skip_moves(input_of(node, 0), "Cast")
        if source is None or source.dtype is None or not is_stored(source):
            continue
        elements = size_of(source) or 0
        width = 2 if source.dtype in HALF else 4
        yield warning(
            node,
            f"the weight '{source.name}' is stored as {source.dtype} and quantized in the graph: "
            f"{format_size(elements, width)} in the file instead of {format_size(elements, 1)}, and {graph.engine} has "
            "to quantize it at each build or load; store it as INT8 with only a DequantizeLinear",
        )
