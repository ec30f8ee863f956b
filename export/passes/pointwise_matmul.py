"""A convolution of kernel size 1 and one group as the plain MatMul it is.

TensorRT for RTX 1.7 gives INT8 convolutions kernels of their own, with channels before tokens and a transposition on
either side; the same product as a MatMul is an ordinary INT8 GEMM.
"""

import onnx_ir as ir

from export.passes.pointwise import Pointwise, Replacement, find_pointwise, require_folded
from export.passes.qdq_nodes import remove_dead


class PointwiseMatMul(ir.passes.InPlacePass):
    """Rewrites ungrouped pointwise convolutions.

    Rules: (1) a Conv of kernel size 1 becomes Transpose to tokens first, MatMul, Add of the bias, Transpose back;
    (2) its INT8 weight stays INT8, stored ``(input, output)``, scales of channels along the last axis; (3) grouped ones
    and those of a larger kernel are left alone.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """The model with products instead of pointwise convolutions."""
        found = _find(model)
        for each in found:
            _rewrite(model, each)
        if found:
            remove_dead(model)
        return ir.passes.PassResult(model, modified=bool(found))

    def requires(self, model: ir.Model) -> None:
        """Weights are folded."""
        require_folded(model)

    def ensures(self, model: ir.Model) -> None:
        """No ungrouped pointwise convolution is left."""
        left = [each.node.name for each in _find(model)]
        if left:
            raise ir.passes.PostconditionError(f"pointwise convolutions are left: {left[:3]}")


def _find(model: ir.Model) -> list[Pointwise]:
    return [each for each in find_pointwise(model) if each.groups == 1]


def _rewrite(model: ir.Model, found: Pointwise) -> None:
    new = Replacement.start(model, found)
    weight = new.factor(found.matrix.T, "matmul", found.scale)
    new.then("MatMul", (*new.rows, len(found.matrix)), weight)
    new.finish()
