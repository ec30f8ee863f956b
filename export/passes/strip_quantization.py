"""The float twin of a traced graph: every QuantizeLinear and DequantizeLinear gone, the numbers as they were before."""

import onnx_ir as ir

from export.passes.qdq_nodes import DEQUANTIZE, QUANTIZE, nodes_of, operand, remove_dead


class StripQuantization(ir.passes.InPlacePass):
    """Removes fake quantization before weights are folded.

    Rules: (1) what reads a DequantizeLinear reads the input of its QuantizeLinear instead; (2) what is then unread
    goes.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """The model in float."""
        modified = False
        for dequantize in nodes_of(model, DEQUANTIZE):
            quantize = operand(dequantize, 0).producer()
            assert quantize is not None
            ir.convenience.replace_all_uses_with(dequantize.outputs[0], operand(quantize, 0))
            modified = True
        remove_dead(model)
        return ir.passes.PassResult(model, modified=modified)

    def requires(self, model: ir.Model) -> None:
        """Every DequantizeLinear reads a QuantizeLinear."""
        for node in nodes_of(model, DEQUANTIZE):
            producer = operand(node, 0).producer()
            if producer is None or producer.op_type != QUANTIZE:
                raise ir.passes.PreconditionError(f"'{node.name}' holds folded weights: strip before FoldWeights")

    def ensures(self, model: ir.Model) -> None:
        """No quantization is left."""
        if any(True for _ in nodes_of(model, QUANTIZE, DEQUANTIZE)):
            raise ir.passes.PostconditionError("quantization nodes are left")
