"""Products: what keeps a matrix product or convolution from running in INT8, or in FP16."""

from collections.abc import Iterator, Sequence

import onnx_ir as ir

from export.lint_rules.base import TENSORRT, Issue, error, rule, warning
from export.lint_rules.graph import (
    PRODUCTS,
    LintGraph,
    dequantizer_of,
    input_of,
    is_constant,
    name_of,
    readers_of,
    size_of,
)
from export.lint_rules.parameters import SCALE


@rule("missing-partner")
def check_partner(graph: LintGraph) -> Iterator[Issue]:
    """Both operands are dequantized, or none; the halves of an attention have their own rule."""
    for node in graph.of_type(*PRODUCTS):
        operands = node.inputs[:2]
        left = [each for each in operands if dequantizer_of(each) is None]
        if len(left) != 1 or name_of(node) in graph.products.halves:
            continue
        kind = "weight" if is_constant(left[0]) else "activation"
        if kind == "weight" and _has_other_readers(operands):
            continue  # quantized for them: this product was left float on purpose
        name = left[0].name if left[0] is not None else ""
        yield warning(
            node,
            f"one operand of {node.op_type} is dequantized, the {kind} '{name}' is not, so {graph.engine} multiplies "
            f"in float; quantize the {kind} too, or leave both float",
        )


def _has_other_readers(operands: Sequence[ir.Value | None]) -> bool:
    dequantizers = [found for each in operands if (found := dequantizer_of(each)) is not None]
    return any(len(list(node.outputs[0].uses())) > 1 for node in dequantizers)


@rule("per-channel-half-scale", targets=("rtx",))
def check_accumulators(graph: LintGraph) -> Iterator[Issue]:
    """INT8 products with FP16 scales a channel leave their accumulators unscaled."""
    for node in graph.of_type("MatMul", "Gemm"):
        found = [dequantizer_of(each) for each in node.inputs[:2]]
        weights = [each for each in found if each is not None and is_constant(input_of(each, 0))]
        if not weights or None in found:
            continue
        scale = input_of(weights[0], SCALE)
        size = size_of(scale)
        if scale is not None and scale.dtype == ir.DataType.FLOAT16 and size is not None and size > 1:
            yield error(
                node,
                f"the weight has {size} FP16 scales: {graph.engine} writes the product before it is scaled, as FP16, "
                "which overflows above 65504; quantize weights per tensor "
                "(qdq calibrate --target rtx), or keep the rest in FP32 (qdq export --precision fp32)",
            )


@rule("fixed-shape-bias", targets=("onnxruntime",))
def check_bias(graph: LintGraph) -> Iterator[Issue]:
    """With fixed shapes a bias of one axis is fused before INT8 is."""
    for node in graph.of_type("MatMul"):
        shape, readers = node.outputs[0].shape, readers_of(node)
        if shape is None or not shape.is_static() or len(readers) != 1 or readers[0].op_type != "Add":
            continue
        biases = [each for each in readers[0].inputs if is_constant(each) and each is not None and each.shape]
        if all(map(dequantizer_of, node.inputs[:2])) and any(len(each.shape or ()) == 1 for each in biases):
            yield warning(
                node,
                f"the product has fixed shapes and a bias of one axis: {graph.engine} makes a Gemm of both before it "
                "looks for INT8, float unless its result is quantized; "
                "export with dynamic axes, or store the bias as (1, 1, n)",
            )


@rule("float32-graph", targets=TENSORRT)
def check_precision(graph: LintGraph) -> Iterator[Issue]:
    """TensorRT 11 computes in the types that the graph has."""
    products = list(graph.of_type(*PRODUCTS))
    if products and all(node.outputs[0].dtype == ir.DataType.FLOAT for node in products):
        yield warning(
            products[0],
            f"every product of the graph ({len(products)}) is FP32, and {graph.engine} is strongly typed: no builder "
            "flag makes it FP16 any more; export the graph in FP16 (qdq export --precision fp16)",
        )
