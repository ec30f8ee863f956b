"""Additions that ONNX Runtime does not fuse, where its fused kernel is slower than two plain ones.

ONNX Runtime 1.31 makes one SkipLayerNormalization of an Add and the LayerNormalization behind it, and one BiasGelu of
an Add and a Gelu. Measured on a busy thread of an AMD EPYC, six layers of hidden size 384, 8x128 tokens: of 241 ms, 12
SkipLayerNormalization take 59 ms and 6 BiasGelu 19 ms; as Sum, LayerNormalization and Gelu they take 18 ms together. A
Sum adds the same numbers, and is in none of those patterns.

Where shapes are fixed, the bias of a product is the worst of these: MatMul and Add become a Gemm before INT8 is looked
for, and a third of the products are float again (six layers at 8x128: 36 of 48 in INT8, 148 ms; with sums 48, 84 ms).
"""

import onnx_ir as ir

from export.passes.qdq_nodes import DEQUANTIZE, nodes_of, operand

_FUSED_WITH = ("LayerNormalization", "Gelu")


class PlainSums(ir.passes.InPlacePass):
    """Writes an Add in front of a LayerNormalization or Gelu, or behind an INT8 product, as a Sum.

    Rules: (1) an Add of two values that such a node reads becomes the Sum of the two; (2) so does the Add of a bias to
    the product of two dequantized operands; (3) every other Add stays.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """The model with sums."""
        found = [add for add in nodes_of(model, "Add") if _is_fused(add)]
        for add in found:
            add.op_type = "Sum"
        return ir.passes.PassResult(model, modified=bool(found))

    def ensures(self, model: ir.Model) -> None:
        """No such Add is left."""
        left = [add.name for add in nodes_of(model, "Add") if _is_fused(add)]
        if left:
            raise ir.passes.PostconditionError(f"additions that ONNX Runtime fuses are left: {left[:3]}")


def _is_fused(add: ir.Node) -> bool:
    normalized = any(use.node.op_type in _FUSED_WITH for use in add.outputs[0].uses())
    return normalized or any(_is_planned(value) for value in add.inputs)


def _is_planned(value: ir.Value | None) -> bool:
    product = None if value is None else value.producer()
    if product is None or product.op_type != "MatMul":
        return False
    makers = [operand(product, place).producer() for place in (0, 1)]
    return all(maker is not None and maker.op_type == DEQUANTIZE for maker in makers)
