"""The scales and zero points of a graph, each listed where it is used first."""

from collections.abc import Iterator

import onnx_ir as ir

from export.lint_rules.graph import LintGraph, input_of, producer_of
from export.passes.qdq_nodes import DEQUANTIZE, QUANTIZE

SCALE, ZERO_POINT = 1, 2
"""Which input of QuantizeLinear and DequantizeLinear is which."""


def list_parameters(graph: LintGraph, index: int) -> Iterator[tuple[ir.Node, ir.Value]]:
    """Every scale or zero point with its node; a DequantizeLinear that shares its QuantizeLinear's is left out."""
    for node in graph.of_type(QUANTIZE, DEQUANTIZE):
        value = input_of(node, index)
        pair = producer_of(input_of(node, 0), QUANTIZE) if node.op_type == DEQUANTIZE else None
        if value is not None and (pair is None or input_of(pair, index) is not value):
            yield node, value
