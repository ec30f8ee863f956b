"""Attention: a mask that FP16 can hold, all four quantizers or none, the scale before the first product."""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from export.lint_rules.base import TENSORRT, Issue, error, rule, warning
from export.lint_rules.graph import (
    MOVES,
    LintGraph,
    constant_behind,
    dequantizer_of,
    input_of,
    is_half,
    name_of,
    producer_of,
    readers_of,
    size_of,
)
from export.passes.qdq_nodes import DEQUANTIZE, QUANTIZE

FP16_LARGEST = 65504.0
SOFT_MASK = "export it with a bounded mask, -10000 or the like"


@rule("mask-constant")
def check_mask(graph: LintGraph) -> Iterator[Issue]:
    """What is added before a softmax fits FP16."""
    seen = set[ir.Node]()
    for softmax in graph.of_type("Softmax", "Attention"):
        scores = input_of(softmax, 0 if softmax.op_type == "Softmax" else 3)
        for node in _mask_nodes(scores):
            number = _extreme_constant(node)
            if number is None or node in seen:
                continue
            seen.add(node)
            wrong = f"the mask before '{name_of(softmax)}' holds {number:.5g}"
            if is_half(scores):
                yield error(
                    node,
                    f"{wrong}, which ends as -inf in half precision: a row that is masked throughout becomes NaN in "
                    f"{graph.engine}; {SOFT_MASK}",
                )
            else:
                yield warning(
                    node,
                    f"{wrong}, beyond FP16's {FP16_LARGEST:.0f}: it becomes -inf as soon as the graph is converted, "
                    f"and a row that is masked throughout NaN; {SOFT_MASK}",
                )


def _mask_nodes(value: ir.Value | None) -> Iterator[ir.Node]:
    """The arithmetic above a softmax, down to the products and normalizations that make its other terms."""
    waiting, seen = [value], set[ir.Node]()
    while waiting:
        node = producer_of(waiting.pop(), "Add", "Sub", "Mul", "Where", "Cast", "ConstantOfShape", *MOVES)
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        if node.op_type == "Where":
            waiting.extend(node.inputs[1:3])
        else:
            waiting.extend(node.inputs[:1] if node.op_type in (*MOVES, "Cast", "ConstantOfShape") else node.inputs)


def _extreme_constant(node: ir.Node) -> float | None:
    """The largest constant that a node reads, where FP16 cannot hold it or holds nothing larger."""
    arrays = [constant_behind(each) for each in node.inputs]
    fill = node.attributes.get("value")
    if node.op_type == "ConstantOfShape" and fill is not None:
        arrays = [fill.as_tensor().numpy()]
    for array in arrays:
        if array is not None and array.size and array.dtype.name in ("float16", "float32", "float64", "bfloat16"):
            extreme = array.ravel()[int(np.abs(array.astype(np.float64)).argmax())]
            if abs(float(extreme)) >= FP16_LARGEST:
                return float(extreme)
    return None


@rule("partial-attention", targets=(*TENSORRT, "openvino"))
def check_quantizers(graph: LintGraph) -> Iterator[Issue]:
    """The four tensors of an attention are quantized together."""
    loses = "loses its fused attention kernel" if graph.target in TENSORRT else "computes a product of it in float"
    for scores, context in _list_attentions(graph):
        operands = [*scores.inputs[:2], *context.inputs[:2]]
        left = [f"'{each.name}'" for each in operands if each is not None and dequantizer_of(each) is None]
        if 0 < len(left) < len(operands):
            yield warning(
                scores,
                f"attention has {len(operands) - len(left)} of its four operands (q, k, probs, v) quantized, not "
                f"{', '.join(left)}: {graph.engine} {loses}; quantize all four, or none",
            )


@rule("unsigned-attention", targets=("openvino",))
def check_signs(graph: LintGraph) -> Iterator[Issue]:
    """The four tensors of an attention are signed."""
    for scores, context in _list_attentions(graph):
        pairs = [dequantizer_of(each) for each in (*scores.inputs[:2], *context.inputs[:2])]
        levels = [input_of(each, 0) for each in pairs if each is not None]
        unsigned = [f"'{each.name}'" for each in levels if each is not None and each.dtype == ir.DataType.UINT8]
        if unsigned:
            yield warning(
                scores,
                f"attention reads UINT8 ({', '.join(unsigned)}): {graph.engine} computes it in INT8 with signed "
                "operands only, and in float here; quantize q, k, v and probs to int8 with zero point 0",
            )


@rule("attention-scale", targets=("tensorrt",))
def check_scale(graph: LintGraph) -> Iterator[Issue]:
    """The scale is on q or k."""
    for scores, context in _list_attentions(graph):
        scale = _scale_behind(scores)
        if scale is not None:
            yield warning(
                scale,
                f"attention is scaled after its first product '{name_of(scores)}': {graph.engine} recognizes fused "
                f"attention (with '{name_of(context)}') only where the scale comes before; multiply q or k by it",
            )


def _list_attentions(graph: LintGraph) -> list[tuple[ir.Node, ir.Node]]:
    return [(graph.named[scores], graph.named[context]) for scores, context in graph.products.attentions]


def _scale_behind(scores: ir.Node) -> ir.Node | None:
    """The product or quotient of the scores and a single number."""
    readers = readers_of(scores)
    while readers:
        node = readers[0]
        if node.op_type in ("Mul", "Div"):
            others = [each for each in node.inputs if constant_behind(each) is not None or _is_number(each)]
            return node if others else None
        readers = readers_of(node) if node.op_type in ("Cast", QUANTIZE, DEQUANTIZE, *MOVES) else []
    return None


def _is_number(value: ir.Value | None) -> bool:
    return size_of(value) == 1
