"""INT8 weights: QuantizeLinear on a weight becomes the INT8 weight itself, stored once, behind a DequantizeLinear."""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.passes.qdq_nodes import (
    DEQUANTIZE,
    QUANTIZE,
    add_initializer,
    constant,
    constant_shape,
    nodes_of,
    operand,
    quantizes_constant,
    remove_dead,
    zero_point,
)
from qat.spec import INT8_MAX, INT8_MIN


class FoldWeights(ir.passes.InPlacePass):
    """Folds weight quantizers.

    Rules: (1) a QuantizeLinear on a constant is computed, in FP32, as the fake quantizer computes it; (2) where a
    transposition of the dequantized matrix follows, the INT8 matrix is stored transposed and the channel axis moves
    along; (3) a weight that several nodes read is stored once; (4) zero points are constants.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """The model without QuantizeLinear on weights."""
        folded = 0
        for quantize in nodes_of(model, QUANTIZE):
            if not quantizes_constant(quantize):
                continue
            weight, scale = constant(operand(quantize, 0)), constant(operand(quantize, 1))
            assert weight is not None
            assert scale is not None
            axis = quantize.attributes.get_int("axis", 1)
            levels = quantize_weight(weight, scale, axis)
            for dequantize in [use.node for use in quantize.outputs[0].uses()]:
                _fold(model, dequantize, levels, axis, f"{operand(quantize, 0).name}_int8")
            folded += 1
        remove_dead(model)
        return ir.passes.PassResult(model, modified=folded > 0)

    def requires(self, model: ir.Model) -> None:
        """Weight quantizers have constant scales and feed only DequantizeLinear."""
        for node in nodes_of(model, QUANTIZE):
            if constant(operand(node, 1)) is None:
                raise ir.passes.PreconditionError(f"the scale of '{node.name}' is not a constant")
            if quantizes_constant(node) and any(use.node.op_type != DEQUANTIZE for use in node.outputs[0].uses()):
                raise ir.passes.PreconditionError(f"'{node.name}' feeds something else than DequantizeLinear")

    def ensures(self, model: ir.Model) -> None:
        """No QuantizeLinear reads a constant."""
        left = [node.name for node in nodes_of(model, QUANTIZE) if quantizes_constant(node)]
        if left:
            raise ir.passes.PostconditionError(f"weights still quantized in the graph: {left[:3]}")


def quantize_weight(weight: NDArray[np.generic], scale: NDArray[np.generic], axis: int) -> NDArray[np.int8]:
    """The INT8 levels of a weight, ``clip(round_half_even(weight / scale), -128, 127)`` in FP32.

    >>> quantize_weight(np.array([[0.5, -2.0]], np.float32), np.array([0.5, 0.01], np.float32), 1).tolist()
    [[1, -128]]
    """
    steps = scale.astype(np.float32)
    if steps.size > 1:
        steps = steps.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
    levels = np.rint(weight.astype(np.float32) / steps)
    clipped: NDArray[np.int8] = np.clip(levels, INT8_MIN, INT8_MAX).astype(np.int8)
    return clipped


def _fold(model: ir.Model, dequantize: ir.Node, levels: NDArray[np.int8], axis: int, name: str) -> None:
    scale = operand(dequantize, 1)
    consumers = [use.node for use in dequantize.outputs[0].uses()]
    transposed = bool(consumers) and all(_swaps_matrix(node) for node in consumers)
    array = levels.T if transposed else levels
    weight = add_initializer(model, name, array)
    shape = constant_shape(scale)
    new = ir.node(
        DEQUANTIZE,
        [weight, scale, zero_point(model, np.int8, 0, shape)],
        {"axis": 1 - axis if transposed else axis} if shape else {},
        name=dequantize.name,
        metadata_props=dict(dequantize.metadata_props),
    )
    new.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    new.outputs[0].shape = ir.Shape(array.shape)
    new.outputs[0].name = f"{name}_dequantized"
    model.graph.insert_before(dequantize, new)
    replaced = [node.outputs[0] for node in consumers] if transposed else [dequantize.outputs[0]]
    for value in replaced:
        ir.convenience.replace_all_uses_with(value, new.outputs[0])


def _swaps_matrix(node: ir.Node) -> bool:
    return node.op_type == "Transpose" and list(node.attributes.get_ints("perm", [])) == [1, 0]
