"""The attention scale before the first product, where engines ask for it and FP16 needs it.

Unscaled scores of a BERT reach thousands, where FP16 counts in ones; TensorRT's fused attention wants the scale on the
query or key (its documentation, "Fused Attention"). The query's DequantizeLinear already multiplies, so it takes the
scale along and no node is added.
"""

import numpy as np
import onnx_ir as ir

from export.passes.qdq_nodes import DEQUANTIZE, add_initializer, constant, nodes_of, operand, remove_dead
from qat.spec import ScaleType


class ScaleQueries(ir.passes.InPlacePass):
    """Moves the scale of attention scores in front of their product.

    Rules: (1) a Mul by a scalar constant between a MatMul and a Softmax (with or without a mask's Add) goes; (2) a
    query that comes from a DequantizeLinear nobody else reads is dequantized with its scale times the constant, in the
    float type scales have in this graph (in FP16 that changes scores by at most 2**-11 of themselves); (3) any other
    query is multiplied by it.
    """

    def __init__(self, scale_type: ScaleType) -> None:
        super().__init__()
        self.scale_type = scale_type

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """The model with scaled queries."""
        moved = 0
        for softmax in nodes_of(model, "Softmax"):
            found = _find_scaling(softmax)
            if found is None:
                continue
            product, scaling, factor = found
            _scale_query(model, product, factor, self.scale_type)
            ir.convenience.replace_all_uses_with(scaling.outputs[0], product.outputs[0])
            moved += 1
        remove_dead(model)
        return ir.passes.PassResult(model, modified=moved > 0)

    def ensures(self, model: ir.Model) -> None:
        """No score is scaled after its product."""
        late = [softmax.name for softmax in nodes_of(model, "Softmax") if _find_scaling(softmax) is not None]
        if late:
            raise ir.passes.PostconditionError(f"scores are still scaled after the product: {late[:3]}")


def _find_scaling(softmax: ir.Node) -> tuple[ir.Node, ir.Node, float] | None:
    """The product, the Mul behind it and the Mul's constant, where a Softmax reads such a pair."""
    scores = operand(softmax, 0).producer()
    sources = [] if scores is None else [scores, *(each.producer() for each in scores.inputs if each is not None)]
    for node in sources:
        if node is None or node.op_type != "Mul":
            continue
        for index in (0, 1):
            product, factor = operand(node, index).producer(), constant(operand(node, 1 - index))
            if product is not None and product.op_type == "MatMul" and factor is not None and factor.size == 1:
                return product, node, float(factor.reshape(())[()])
    return None


def _scale_query(model: ir.Model, product: ir.Node, factor: float, scale_type: ScaleType) -> None:
    query = operand(product, 0)
    source = query.producer()
    if source is not None and source.op_type == DEQUANTIZE and len(list(query.uses())) == 1:
        scale = constant(operand(source, 1))
        if scale is not None:
            name = f"{operand(source, 1).name}_scaled"
            scaled = (scale.astype(np.float32) * np.float32(factor)).astype(scale_type).astype(np.float32)
            source.replace_input_with(1, add_initializer(model, name, scaled))
            return
    value = add_initializer(model, "attention_scale", np.array(factor, np.float32))
    multiply = ir.node("Mul", [query, value], name=f"{product.name}_scale")
    multiply.outputs[0].name = f"{query.name}_scaled"
    multiply.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    multiply.outputs[0].shape = query.shape
    model.graph.insert_before(product, multiply)
    product.replace_input_with(0, multiply.outputs[0])
