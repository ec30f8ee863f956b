"""Reshape targets as constants: what the exporter computes of the input's sizes is known but for batch and tokens.

A target of 0 keeps the size of that axis, so free axes need no arithmetic where they stay in place.
"""

import numpy as np
import onnx_ir as ir

from export.passes.qdq_nodes import add_initializer, constant, nodes_of, operand, remove_dead


class ConstantShapes(ir.passes.InPlacePass):
    """Gives Reshape a constant target.

    Rules: (1) a known size is written as it is, a free axis that stays in its place as 0, one other as -1; (2) where
    two axes would be -1 the Reshape stays; (3) the arithmetic nobody reads any more goes.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """The model with constant targets where they suffice."""
        modified = False
        for reshape in nodes_of(model, "Reshape"):
            target = _write_target(reshape) if constant(operand(reshape, 1)) is None else None
            if target is not None:
                name = f"shape_{'x'.join(map(str, target))}"
                reshape.replace_input_with(1, add_initializer(model, name, np.array(target, np.int64)))
                reshape.attributes.pop("allowzero", None)  # with it, 0 would be a size
                modified = True
        if modified:
            remove_dead(model)
        return ir.passes.PassResult(model, modified=modified)


def _write_target(reshape: ir.Node) -> list[int] | None:
    before, after = list(operand(reshape, 0).shape or ()), list(reshape.outputs[0].shape or ())
    if 0 in after or not before or not after:
        return None
    target = []
    for place, size in enumerate(after):
        stays = place < len(before) and before[place] == size and size != ir.SymbolicDim(None)
        target.append(size if isinstance(size, int) else 0 if stays else -1)
    return target if target.count(-1) <= 1 else None
