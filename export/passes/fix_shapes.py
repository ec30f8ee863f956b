"""A graph for one shape: its free axes become numbers, and what was computed from them is stored."""

from collections.abc import Mapping

import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass, ShapeInferencePass
from onnxscript.optimizer import fold_constants

from export.passes.qdq_nodes import DEQUANTIZE, QUANTIZE, remove_dead

_LARGEST = 2**31  # elements: whatever depends on sizes alone is small, the tables it is looked up in are not


class FixShapes(ir.passes.InPlacePass):
    """Gives free axes their sizes.

    Rules: (1) an axis of a name given has that size, in inputs and everywhere; (2) what follows from sizes and
    constants (shapes, position numbers, the rows of position embeddings) is computed and stored; (3) quantizers and
    dequantizers stay, whatever they read.

    Args:
        sizes: by the names of the axes.
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        super().__init__()
        self.sizes = sizes

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """The model of that shape."""
        before = [str(value.shape) for value in model.graph.inputs]
        outputs = [output for node in model.graph for output in node.outputs]
        for value in [*model.graph.inputs, *outputs]:
            value.shape = self._fix(value.shape)
        ShapeInferencePass()(model)
        fold_constants(model, should_fold=_folds, input_size_limit=_LARGEST, output_size_limit=_LARGEST)
        LiftConstantsToInitializersPass()(model)
        remove_dead(model)
        after = [str(value.shape) for value in model.graph.inputs]
        return ir.passes.PassResult(model, modified=before != after)

    def ensures(self, model: ir.Model) -> None:
        """No input has a free axis."""
        for value in model.graph.inputs:
            if value.shape is None or not value.shape.is_static():
                raise ir.passes.PostconditionError(f"input '{value.name}' has a free axis: {value.shape}")

    def _fix(self, shape: ir.Shape | None) -> ir.Shape | None:
        """The shape in numbers; a size that is computed is left for inference to find."""
        if shape is None:
            return None
        return ir.Shape(
            [dim if isinstance(dim, int) else self.sizes.get(dim.value or "", ir.SymbolicDim(None)) for dim in shape]
        )


def _folds(node: ir.Node) -> bool | None:
    return False if node.op_type in (QUANTIZE, DEQUANTIZE) else None
