"""The attention scale before the first product, where engines ask for it and FP16 needs it.

Unscaled scores of a BERT reach thousands, where FP16 counts in ones; TensorRT's fused attention wants the scale on the
query or key (its documentation, "Fused Attention"). A DequantizeLinear already multiplies, so it takes the scale along
and no node is added.
"""

import numpy as np
import onnx_ir as ir

from export.passes.qdq_nodes import DEQUANTIZE, add_initializer, constant, nodes_of, operand, remove_dead
from qat.spec import ScaleType

_LAYOUT = ("Reshape", "Transpose")


class ScaleQueries(ir.passes.InPlacePass):
    """Moves the scale of attention scores in front of their product.

    Rules: (1) a Mul or Div by a scalar constant between a MatMul and a Softmax (with or without a mask's Add) goes;
    (2) a query, or else a key, that comes from a DequantizeLinear nobody else reads, if only its layout changes on the
    way, is dequantized with its scale times the constant, in the float type scales have in this graph (in FP16 that
    changes scores by at most 2**-11 of themselves); (3) where neither does, the query is multiplied by it.
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
            if not any(_scale_operand(model, operand(product, index), factor, self.scale_type) for index in (0, 1)):
                _multiply_query(model, product, factor)
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
    """The product, the Mul or Div behind it and the factor of either, where a Softmax reads such a pair."""
    scores = operand(softmax, 0).producer()
    sources = [] if scores is None else [scores, *(each.producer() for each in scores.inputs if each is not None)]
    for node in sources:
        if node is None or node.op_type not in ("Mul", "Div"):
            continue
        for index in (0, 1) if node.op_type == "Mul" else (0,):
            product, factor = operand(node, index).producer(), constant(operand(node, 1 - index))
            if product is not None and product.op_type == "MatMul" and factor is not None and factor.size == 1:
                number = float(factor.reshape(())[()])
                return product, node, number if node.op_type == "Mul" else 1.0 / number
    return None


def _scale_operand(model: ir.Model, value: ir.Value, factor: float, scale_type: ScaleType) -> bool:
    """Whether a DequantizeLinear that serves nothing but ``value`` took the factor along."""
    source = value.producer()
    while source is not None and len(list(source.outputs[0].uses())) == 1:
        scale = constant(operand(source, 1)) if source.op_type == DEQUANTIZE else None
        if scale is not None:
            name = f"{operand(source, 1).name}_scaled"
            scaled = (scale.astype(np.float32) * np.float32(factor)).astype(scale_type).astype(np.float32)
            source.replace_input_with(1, add_initializer(model, name, scaled))
            return True
        source = operand(source, 0).producer() if source.op_type in _LAYOUT else None
    return False


def _multiply_query(model: ir.Model, product: ir.Node, factor: float) -> None:
    query = operand(product, 0)
    value = add_initializer(model, "attention_scale", np.array(factor, np.float32))
    multiply = ir.node("Mul", [query, value], name=f"{product.name}_scale")
    multiply.outputs[0].name = f"{query.name}_scaled"
    multiply.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    multiply.outputs[0].shape = query.shape
    model.graph.insert_before(product, multiply)
    product.replace_input_with(0, multiply.outputs[0])
