"""Operators that an engine does not import, or that it runs better in another form."""

from collections.abc import Iterator

import onnx_ir as ir

from export.lint_rules.base import TENSORRT, Issue, error, rule, warning
from export.lint_rules.graph import LintGraph, input_of, is_half, name_of, producer_of, readers_of
from export.passes.qdq_nodes import DEQUANTIZE

INTEGER = frozenset(
    {"MatMulInteger", "ConvInteger", "DynamicQuantizeLinear", "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
     "DynamicQuantizeLSTM", "QAttention", "QGemm", "QEmbedLayerNormalization"}
)  # fmt: skip


@rule("int32-dequantize", targets=TENSORRT)
def check_int32(graph: LintGraph) -> Iterator[Issue]:
    """Biases stay float."""
    for node in graph.of_type(DEQUANTIZE):
        value = input_of(node, 0)
        if value is not None and value.dtype == ir.DataType.INT32:
            yield error(
                node,
                f"'{value.name}' is dequantized from int32 (a bias), which {graph.engine} refuses; "
                "keep the bias float, without a DequantizeLinear",
            )


@rule("integer-operator", targets=TENSORRT)
def check_integer(graph: LintGraph) -> Iterator[Issue]:
    """INT8 is imported from QuantizeLinear and DequantizeLinear only."""
    for node in graph.nodes:
        if node.op_type in INTEGER or node.op_type.startswith("QLinear"):
            yield error(
                node,
                f"{graph.engine} has no {node.op_type}: it makes INT8 kernels only from QuantizeLinear and "
                "DequantizeLinear around float operators; export in the QDQ format with static ranges",
            )


@rule("float-integer-product", targets=("openvino",))
def check_integer_product(graph: LintGraph) -> Iterator[Issue]:
    """INT8 products are written as QuantizeLinear and DequantizeLinear around float ones."""
    for node in graph.of_type("MatMulInteger", "ConvInteger"):
        yield warning(
            node,
            f"{graph.engine} computes {node.op_type} in FP32: it makes INT8 kernels from DequantizeLinear in front of "
            "float operators; export in the QDQ format with static ranges",
        )


@rule("layer-norm", targets=TENSORRT)
def check_layer_normalization(graph: LintGraph) -> Iterator[Issue]:
    """A normalization is one operator."""
    for root in graph.of_type("Sqrt"):
        square = _find_square(root)
        if square is None:
            continue
        divide = next((each for each in readers_of(root) if each.op_type in ("Div", "Reciprocal")), root)
        wrong = "a layer normalization is spelled out as ReduceMean, Pow, Sqrt and Div"
        remedy = "export it with opset 17 or later, as one LayerNormalization"
        if is_half(square.outputs[0]):
            yield error(
                divide,
                f"{wrong}: '{name_of(square)}' squares in {square.outputs[0].dtype}, where FP16 overflows from 256 on; "
                f"{remedy}, which {graph.engine} computes in FP32",
            )
        else:
            yield warning(
                divide, f"{wrong}: {graph.engine} fuses the one operator and keeps its statistics in FP32; {remedy}"
            )


def _find_square(root: ir.Node) -> ir.Node | None:
    """The square of ``x - mean(x)`` under a root of its mean."""
    below = _skip_casts(input_of(root, 0))
    add = producer_of(below, "Add")
    candidates = [below] if add is None else [_skip_casts(each) for each in add.inputs]
    for candidate in candidates:
        mean = producer_of(candidate, "ReduceMean")
        square = None if mean is None else producer_of(_skip_casts(input_of(mean, 0)), "Pow", "Mul")
        centred = None if square is None else producer_of(_skip_casts(input_of(square, 0)), "Sub")
        if centred is not None and any(producer_of(_skip_casts(each), "ReduceMean") for each in centred.inputs):
            return square
    return None


def _skip_casts(value: ir.Value | None) -> ir.Value | None:
    while (node := producer_of(value, "Cast")) is not None:
        value = input_of(node, 0)
    return value
