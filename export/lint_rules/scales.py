"""Scales: known at build time, positive, large enough for FP16, of the right type, one for an activation."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from export.lint_rules.base import TENSORRT, Issue, error, rule, warning
from export.lint_rules.graph import LintGraph, constant_behind, input_of, is_constant, is_half, size_of
from export.lint_rules.parameters import SCALE, list_parameters
from export.passes.qdq_nodes import QUANTIZE

FP16_SMALLEST_NORMAL = 2.0**-14


def _first(array: NDArray[np.generic], wrong: NDArray[np.bool_]) -> str:
    """The first wrong scale, and which channel it is where there are several."""
    index = int(np.flatnonzero(wrong)[0])
    value = f"{float(array.ravel()[index]):.4g}"
    return value if array.size == 1 else f"{value} in channel {index} ({int(wrong.sum())} of {array.size} such)"


@rule("scale-not-constant", targets=TENSORRT)
def check_constant(graph: LintGraph) -> Iterator[Issue]:
    """The builder reads scales."""
    for node, scale in list_parameters(graph, SCALE):
        if constant_behind(scale) is None:
            yield error(
                node,
                f"the scale '{scale.name}' is computed while the graph runs, but {graph.engine} needs it when it "
                "builds; calibrate, and export the scale as a constant",
            )


@rule("scale-not-positive")
def check_positive(graph: LintGraph) -> Iterator[Issue]:
    """A step is a positive number."""
    for node, scale in list_parameters(graph, SCALE):
        array = constant_behind(scale)
        if array is None:
            continue
        values = array.astype(np.float64).ravel()
        wrong = ~(np.isfinite(values) & (values > 0))
        if wrong.any():
            yield error(
                node,
                f"the scale is {_first(array, wrong)}: {graph.engine} divides by it, so it must be positive and "
                "finite; calibrate again, and give channels that are all zero a small positive range",
            )


@rule("scale-subnormal")
def check_subnormal(graph: LintGraph) -> Iterator[Issue]:
    """FP16 below 2^-14 loses digits."""
    for node, scale in list_parameters(graph, SCALE):
        array = constant_behind(scale)
        if array is None or array.dtype != np.float16:
            continue
        values = array.astype(np.float64).ravel()
        wrong = (values > 0) & (values < FP16_SMALLEST_NORMAL)
        if wrong.any():
            yield warning(
                node,
                f"the FP16 scale is {_first(array, wrong)}, below FP16's smallest normal number "
                f"{FP16_SMALLEST_NORMAL:.4g}: it has lost digits, and kernels may flush it to zero; "
                "calibrate with scales of at least 2^-14",
            )


@rule("scale-type")
def check_type(graph: LintGraph) -> Iterator[Issue]:
    """What is quantized has the type of its scale, where one of the two is half."""
    for node in graph.of_type(QUANTIZE):
        value, scale = input_of(node, 0), input_of(node, SCALE)
        if value is None or scale is None or value.dtype is None or scale.dtype is None:
            continue
        if value.dtype != scale.dtype and (is_half(value) or is_half(scale)):
            yield error(
                node,
                f"a {value.dtype} tensor has a {scale.dtype} scale, but {graph.engine} wants both of one type "
                "(ONNX too): products behind it mix types, or a hidden cast rounds first; "
                f"store the scale as {value.dtype}",
            )


@rule("per-channel-activation", targets=(*TENSORRT, "openvino"))
def check_activation(graph: LintGraph) -> Iterator[Issue]:
    """Only weights have one scale a channel."""
    for node, scale in list_parameters(graph, SCALE):
        size, value = size_of(scale), input_of(node, 0)
        if size is not None and size > 1 and not is_constant(value):
            yield error(
                node,
                f"the activation '{value.name if value else ''}' has {size} scales, but {graph.engine} takes one "
                "for an activation: no INT8 product can factor them out, it would run in float; quantize it per tensor",
            )
