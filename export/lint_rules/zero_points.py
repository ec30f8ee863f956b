"""Zero points: TensorRT quantizes symmetrically, with a zero point of 0 that it knows at build time."""

from collections.abc import Iterator

import numpy as np

from export.lint_rules.base import TENSORRT, Issue, error, rule, warning
from export.lint_rules.graph import LintGraph, constant_behind, input_of, size_of
from export.lint_rules.parameters import SCALE, ZERO_POINT, list_parameters
from export.passes.qdq_nodes import QUANTIZE


@rule("zero-point-not-constant", targets=TENSORRT)
def check_constant(graph: LintGraph) -> Iterator[Issue]:
    """The builder reads zero points."""
    for node, zero in list_parameters(graph, ZERO_POINT):
        if constant_behind(zero) is None:
            yield error(
                node,
                f"the zero point '{zero.name}' is computed while the graph runs, but {graph.engine} needs it when it "
                "builds; make it a constant 0 of type int8",
            )


@rule("zero-point-not-zero")
def check_zero(graph: LintGraph) -> Iterator[Issue]:
    """Zero points are 0 and signed; CPU runtimes also take uint8 around 128, which are the same numbers."""
    runtime = graph.target not in TENSORRT
    for node, zero in list_parameters(graph, ZERO_POINT):
        array = constant_behind(zero)
        if array is None or array.dtype not in (np.int8, np.uint8):
            continue
        unsigned = array.dtype == np.uint8
        off = array[array != (128 if unsigned and runtime else 0)]
        if runtime and off.size:
            yield warning(
                node,
                f"the zero point is {array.dtype} {off.flat[0]}: {graph.engine} runs it, but TensorRT refuses any but "
                "0; quantize symmetrically (int8 with zero point 0, or uint8 with 128)",
            )
        elif off.size:
            yield error(
                node,
                f"the zero point is {array.dtype} {off.flat[0]}, but {graph.engine} quantizes symmetrically and "
                "refuses any but 0; quantize to int8 with zero point 0 (calibrate symmetric ranges)",
            )
        elif unsigned and not runtime:
            yield error(
                node,
                f"the zero point is uint8, but {graph.engine} builds it as int8 without a word, so that levels above "
                "127 saturate; quantize to int8 with zero point 0",
            )


@rule("zero-point-missing")
def check_missing(graph: LintGraph) -> Iterator[Issue]:
    """Without a zero point ONNX means uint8 and TensorRT int8."""
    for node in graph.of_type(QUANTIZE):
        if input_of(node, ZERO_POINT) is None and not node.attributes.get_int("output_dtype", 0):
            yield warning(
                node,
                "there is no zero point, which ONNX Runtime reads as uint8 and TensorRT as int8: one graph, two "
                "results; add a constant zero point 0 of type int8",
            )


@rule("zero-point-size", targets=TENSORRT)
def check_size(graph: LintGraph) -> Iterator[Issue]:
    """A zero point has the size of its scale."""
    for node, zero in list_parameters(graph, ZERO_POINT):
        points, scales = size_of(zero), size_of(input_of(node, SCALE))
        if points is not None and scales is not None and points != scales:
            yield error(
                node,
                f"there are {scales} scales but {points} zero points, and {graph.engine} refuses sizes that differ; "
                "give the zero point the shape of the scale",
            )
