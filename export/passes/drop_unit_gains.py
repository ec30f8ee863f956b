"""Gains of one leave the graph: a residual stream in the units it always had needs no multiplication."""

import numpy as np
import onnx_ir as ir

from export.passes.qdq_nodes import constant, hand_over, nodes_of, remove_dead


class DropUnitGains(ir.passes.InPlacePass):
    """Removes every Mul by a constant that is one everywhere and leaves the other factor's shape as it is."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """The model without them."""
        modified = False
        for mul in nodes_of(model, "Mul"):
            factor, other = _split_operands(mul)
            if factor is not None and other is not None:
                hand_over(mul.outputs[0], other)
                modified = True
        if modified:
            remove_dead(model)
        return ir.passes.PassResult(model, modified=modified)

    def ensures(self, model: ir.Model) -> None:
        """None is left."""
        if any(_split_operands(mul)[0] is not None for mul in nodes_of(model, "Mul")):
            raise ir.passes.PostconditionError("a multiplication by one is left")


def _split_operands(mul: ir.Node) -> tuple[ir.Value | None, ir.Value | None]:
    """The constant of ones of a Mul and its other operand, or nothing."""
    for factor, other in (mul.inputs, reversed(mul.inputs)):
        array = constant(factor)
        if array is None or other is None or other.shape is None or not np.all(array == 1):
            continue
        if array.ndim <= len(other.shape) and all(
            size == 1 or size == other.shape[axis - array.ndim] for axis, size in enumerate(array.shape)
        ):
            return factor, other
    return None, None
