"""Operators used in a form that the graph's opset does not have yet: no valid ONNX, and each engine guesses."""

from collections.abc import Iterator

from export.lint_rules.base import Issue, error, rule
from export.lint_rules.graph import LintGraph, input_of, is_half, size_of
from export.passes.qdq_nodes import DEQUANTIZE, QUANTIZE

PER_AXIS, HALF_SCALES, LAYER_NORMALIZATION = 13, 19, 17


@rule("opset-per-axis")
def check_per_axis(graph: LintGraph) -> Iterator[Issue]:
    """Scales per channel came with opset 13."""
    for node in graph.of_type(QUANTIZE, DEQUANTIZE) if graph.opset < PER_AXIS else ():
        size = size_of(input_of(node, 1))
        if size is not None and size > 1:
            yield error(
                node,
                f"{node.op_type} has {size} scales, but the graph's opset {graph.opset} knows one scale a tensor: the "
                f"graph is invalid and engines guess the axis; export it with opset {PER_AXIS} or later",
            )


@rule("opset-half-scale")
def check_half_scales(graph: LintGraph) -> Iterator[Issue]:
    """FP16 and BF16 scales came with opset 19."""
    for node in graph.of_type(QUANTIZE, DEQUANTIZE) if graph.opset < HALF_SCALES else ():
        scale = input_of(node, 1)
        if scale is not None and is_half(scale):
            yield error(
                node,
                f"the scale is {scale.dtype}, but the graph's opset {graph.opset} knows FLOAT scales only: the graph "
                f"is invalid and ONNX Runtime refuses it; export it with opset {HALF_SCALES} or 20",
            )


@rule("opset-layer-norm")
def check_layer_normalization(graph: LintGraph) -> Iterator[Issue]:
    """LayerNormalization came with opset 17."""
    for node in graph.of_type("LayerNormalization") if graph.opset < LAYER_NORMALIZATION else ():
        yield error(
            node,
            f"LayerNormalization is no operator of the graph's opset {graph.opset}: the graph is invalid; "
            f"export it with opset {LAYER_NORMALIZATION} or later",
        )
