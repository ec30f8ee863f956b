"""The float twin of a traced graph: every QuantizeLinear and DequantizeLinear gone, or those of some quantizers."""

import onnx_ir as ir

from export.passes.qdq_nodes import DEQUANTIZE, QUANTIZE, nodes_of, operand, remove_dead


class StripQuantization(ir.passes.InPlacePass):
    """Removes fake quantization before weights are folded: all of it, or the quantizers of these paths.

    Rules: (1) what reads a DequantizeLinear reads the input of its QuantizeLinear instead; (2) what is then unread
    goes.
    """

    def __init__(self, quantizers: frozenset[str] | None = None) -> None:
        super().__init__()
        self.quantizers = quantizers

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """The model without them."""
        modified = False
        for dequantize in self._find(model, DEQUANTIZE):
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
        """None of it is left."""
        if self._find(model, QUANTIZE, DEQUANTIZE):
            raise ir.passes.PostconditionError("quantization nodes are left")

    def _find(self, model: ir.Model, *op_types: str) -> list[ir.Node]:
        found = list(nodes_of(model, *op_types))
        if self.quantizers is None:
            return found
        return [node for node in found if (node.name or "").rpartition("/")[0] in self.quantizers]
