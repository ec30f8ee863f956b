"""Casts that are left over: inside or around a quantizer, around what half precision computes as well."""

from collections.abc import Iterator

import onnx_ir as ir

from export.lint_rules.base import TENSORRT, Issue, rule, warning
from export.lint_rules.graph import (
    MOVES,
    PRODUCTS,
    LintGraph,
    input_of,
    is_constant,
    is_half,
    name_of,
    producer_of,
    readers_of,
)
from export.passes.qdq_nodes import DEQUANTIZE, QUANTIZE

# bounded, or bounded by what they read: half precision holds what comes out wherever it held what went in
_BOUNDED = frozenset({"Softmax", "Gelu", "Erf", "Tanh", "Relu", "Sigmoid"})


@rule("cast-sandwich")
def check_casts(graph: LintGraph) -> Iterator[Issue]:
    """No casts inside or around a quantizer."""
    for node in graph.of_type(QUANTIZE):
        inside = [each for each in readers_of(node) if each.op_type == "Cast"]
        for between in inside:
            if any(reader.op_type == DEQUANTIZE for reader in readers_of(between)):
                yield warning(
                    node,
                    f"'{name_of(between)}' casts between QuantizeLinear and DequantizeLinear: {graph.engine} makes "
                    "INT8 of two that stand side by side, and may refuse the cast; remove it",
                )
        cast = producer_of(input_of(node, 0), "Cast")
        pairs = [each for each in readers_of(node) if each.op_type == DEQUANTIZE]
        if cast is None or is_constant(input_of(cast, 0)) or not _widens(cast):
            continue
        if any(_narrows(reader) for pair in pairs for reader in readers_of(pair)):
            yield warning(
                node,
                f"the pair stands between two casts (half to float before it, '{name_of(cast)}', and back after it): "
                f"what {graph.engine} does not fold moves as FP32; store the scale in half precision (opset 19) and "
                "remove both casts",
            )


def _widens(cast: ir.Node) -> bool:
    source = input_of(cast, 0)
    unknown = source is None or source.dtype is None
    return cast.attributes["to"].as_int() == ir.DataType.FLOAT and (unknown or is_half(source))


def _narrows(node: ir.Node) -> bool:
    return node.op_type == "Cast" and node.domain == "" and ir.DataType(node.attributes["to"].as_int()).name in (
        "FLOAT16", "BFLOAT16",
    )  # fmt: skip


@rule("leftover-cast", targets=TENSORRT)
def check_leftovers(graph: LintGraph) -> Iterator[Issue]:
    """Nothing is widened to FP32 that half precision computes as well."""
    for cast in graph.of_type("Cast"):
        source = input_of(cast, 0)
        if not is_half(source) or not _widens(cast) or is_constant(source):
            continue
        end = _find_end(cast)
        if end is None:
            continue
        wrong = f"runs '{name_of(end)}' in FP32" if end.op_type in PRODUCTS else f"ends at '{name_of(end)}' again"
        yield warning(
            cast,
            f"a cast from half precision to FP32 is left, which {wrong}: {graph.engine} is strongly typed, so what "
            "lies behind it computes and moves FP32; remove the cast, unless these values would overflow",
        )


def _find_end(cast: ir.Node) -> ir.Node | None:
    """The product of activations, or the cast back, that a widened value comes to with little between."""
    waiting, seen = readers_of(cast), set[ir.Node]()
    while waiting:
        node = waiting.pop()
        if node in seen or node.domain != "":
            continue
        seen.add(node)
        if _narrows(node) or (node.op_type in PRODUCTS and not any(is_constant(each) for each in node.inputs[:2])):
            return node
        if node.op_type in MOVES or node.op_type in _BOUNDED:
            waiting.extend(readers_of(node))
    return None
