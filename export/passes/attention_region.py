"""The float arithmetic inside an attention whose two products are INT8: from DequantizeLinear to QuantizeLinear."""

from collections.abc import Iterator

import onnx_ir as ir

from export.passes.qdq_nodes import DEQUANTIZE, QUANTIZE, nodes_of, operand

_LAYOUT = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split")


def list_int8_attention(model: ir.Model) -> frozenset[ir.Node]:
    """The nodes of every attention with quantized q, k, v and probabilities.

    Of the edges, the DequantizeLinear of q, k, v and both nodes of the probabilities belong to it, and so does the
    QuantizeLinear of the answer, joined with others or not; those that quantize q, k and v do not. What joins may
    overflow FP16: infinity is quantized to 127, as every value beyond the range is.
    """
    return frozenset(node for softmax in nodes_of(model, "Softmax") for node in _inside(softmax) or ())


def _inside(softmax: ir.Node) -> set[ir.Node] | None:
    """The nodes around one softmax, ``None`` where one of its products has a float operand."""
    scores = operand(softmax, 0).producer()
    found = {softmax}
    if scores is not None and scores.op_type == "Add":  # of the mask
        found.add(scores)
        scores = next((node for node in _producers(scores) if node.op_type == "MatMul"), None)
    readers = [reader for node in _dequantized(softmax, found) for reader in _readers(node)]
    if scores is None or not readers:
        return None
    products = [scores, *readers]
    for product in products:
        if product.op_type != "MatMul":
            return None
        found.add(product)
        if not all(_add_source(value, found) for value in product.inputs if value is not None):
            return None
    answers = [products[-1]]
    while answers:
        inner = [node for node in _readers(answers.pop()) if node.op_type in (*_LAYOUT, "Concat", QUANTIZE)]
        found.update(inner)
        answers += [node for node in inner if node.op_type != QUANTIZE]
    return found


def _dequantized(softmax: ir.Node, found: set[ir.Node]) -> Iterator[ir.Node]:
    """The DequantizeLinear nodes of the probabilities; their QuantizeLinear nodes are found on the way."""
    for quantize in _readers(softmax):
        if quantize.op_type == QUANTIZE:
            found.add(quantize)
            found.update(_readers(quantize))
            yield from _readers(quantize)


def _add_source(value: ir.Value, found: set[ir.Node]) -> bool:
    """Whether a product's operand comes from a DequantizeLinear through changes of layout only."""
    node = value.producer()
    while node is not None and node.op_type in _LAYOUT:
        found.add(node)
        node = operand(node, 0).producer()
    if node is None or node.op_type != DEQUANTIZE:
        return False
    found.add(node)
    return True


def _producers(node: ir.Node) -> Iterator[ir.Node]:
    yield from (made for value in node.inputs if value is not None and (made := value.producer()) is not None)


def _readers(node: ir.Node) -> list[ir.Node]:
    return [use.node for output in node.outputs for use in output.uses()]
