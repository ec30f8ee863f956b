"""Activations as UINT8 with zero point 128: the numbers of INT8 with 0, in the form ONNX Runtime's CPU kernels take.

With signed activations one Q/DQ pair that feeds q, k and v stays unfused, three float MatMuls a layer (measured with
ONNX Runtime 1.31); shifted by 128 every planned MatMul becomes an integer kernel.
"""

import numpy as np
import onnx_ir as ir

from export.passes.qdq_nodes import DEQUANTIZE, QUANTIZE, constant, nodes_of, operand, zero_point


class UnsignedActivations(ir.passes.InPlacePass):
    """Shifts activation quantization by 128.

    Rules: (1) a QuantizeLinear of an activation gets a UINT8 zero point of 128, and so does every DequantizeLinear that
    reads it; (2) weights stay INT8 with zero point 0.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """The model with unsigned activations."""
        shifted = [node for node in nodes_of(model, QUANTIZE) if not _is_shifted(node)]
        for quantize in shifted:
            middle = zero_point(model, np.uint8, 128, ())
            quantize.replace_input_with(2, middle)
            quantize.outputs[0].type = ir.TensorType(ir.DataType.UINT8)
            for use in list(quantize.outputs[0].uses()):
                use.node.replace_input_with(2, middle)
        return ir.passes.PassResult(model, modified=bool(shifted))

    def requires(self, model: ir.Model) -> None:
        """Weights are folded, activations per tensor, their levels read by DequantizeLinear only."""
        for node in nodes_of(model, QUANTIZE):
            scale = constant(operand(node, 1))
            if constant(operand(node, 0)) is not None or scale is None or scale.size != 1:
                raise ir.passes.PreconditionError(f"'{node.name}' is not a per-tensor activation: fold weights first")
            if any(use.node.op_type != DEQUANTIZE for use in node.outputs[0].uses()):
                raise ir.passes.PreconditionError(f"'{node.name}' feeds something else than DequantizeLinear")


def _is_shifted(quantize: ir.Node) -> bool:
    middle = constant(operand(quantize, 2))
    return middle is not None and middle.dtype == np.uint8 and bool((middle == 128).all())
