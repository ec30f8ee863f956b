"""Scales that BF16 holds: before weights are folded, so that levels and scales still fit together."""

import numpy as np
import onnx_ir as ir

from export.passes.qdq_nodes import DEQUANTIZE, QUANTIZE, constant, nodes_of, operand


class RoundScales(ir.passes.InPlacePass):
    """Rounds every scale to the nearest BF16 value.

    Rules: (1) a scale keeps 8 of the 11 bits that it has as an FP16 value, so a range moves by at most 2**-8 (0.4 %)
    of itself, as another calibration would move it; (2) what is rounded is an FP16 value still, so that one scale
    serves both types; (3) weights are quantized with the scale they are dequantized with.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """The model with BF16 scales."""
        modified = False
        for value in {operand(node, 1): None for node in nodes_of(model, QUANTIZE, DEQUANTIZE)}:
            scale = constant(value)
            assert scale is not None
            rounded = scale.astype(ir.DataType.BFLOAT16.numpy()).astype(np.float32)
            if not np.array_equal(rounded, scale):
                value.const_value = ir.tensor(rounded, name=value.name)
                modified = True
        return ir.passes.PassResult(model, modified=modified)

    def requires(self, model: ir.Model) -> None:
        """Every scale is an initializer, and no weight is folded yet."""
        for node in nodes_of(model, QUANTIZE, DEQUANTIZE):
            if not operand(node, 1).is_initializer():
                raise ir.passes.PreconditionError(f"the scale of '{node.name}' is no initializer")
            if node.op_type == DEQUANTIZE and operand(node, 0).is_initializer():
                raise ir.passes.PreconditionError(f"'{node.name}' holds folded weights: round scales first")
