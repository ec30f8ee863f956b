"""A grouped convolution of kernel size 1 as one batched MatMul over its groups, or as one MatMul a group.

Measured with TensorRT for RTX 1.7 on a four-layer SqueezeBERT of four groups, FP16 around INT8, 8x128 tokens: kept as
convolutions 70 kernels and 84.0 MB of activations; a MatMul a group 94 and 81.9; one MatMul with the weight filled up
with zeros 50 and 63.0, at four times the multiply-accumulates; batched over ``(groups, batch x tokens, channels)`` 50
and 63.0 with none added, and q, k and v merged. With batch and tokens apart the builder repeats the weight for every
row (86 kernels).
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.passes.pointwise import Pointwise, Replacement, find_pointwise, make_node, require_folded
from export.passes.qdq_nodes import add_initializer, remove_dead


class GroupedMatMul(ir.passes.InPlacePass):
    """Rewrites grouped pointwise convolutions.

    Rules: (1) where one scale serves the weight, or it is float, its groups become the batch of one MatMul:
    ``(groups, batch x tokens, channels)`` by ``(groups, input, output)``; (2) where each channel has a scale, every
    group becomes a MatMul of its own, since ONNX scales lie along one axis; (3) transpositions stand around it, the
    bias behind it; (4) an INT8 weight stays INT8; (5) convolutions of a larger kernel are left alone.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """The model with products instead of grouped pointwise convolutions."""
        found = _find(model)
        shapes: dict[tuple[str, ...], ir.Value] = {}
        for each in found:
            new = Replacement.start(model, each)
            if each.channel_scales is None:
                _multiply_batched(new, shapes)
            else:
                _multiply_each(new, each.channel_scales)
            new.finish()
        if found:
            remove_dead(model)
        return ir.passes.PassResult(model, modified=bool(found))

    def requires(self, model: ir.Model) -> None:
        """Weights are folded."""
        require_folded(model)

    def ensures(self, model: ir.Model) -> None:
        """No grouped pointwise convolution is left."""
        left = [each.node.name for each in _find(model)]
        if left:
            raise ir.passes.PostconditionError(f"grouped pointwise convolutions are left: {left[:3]}")


def _find(model: ir.Model) -> list[Pointwise]:
    return [each for each in find_pointwise(model) if each.groups > 1]


def _by_group(found: Pointwise) -> NDArray[np.generic]:
    """The weight as ``(groups, input channels, output channels)``, each of one group."""
    return found.matrix.reshape(found.groups, -1, found.matrix.shape[1]).transpose(0, 2, 1)


def _multiply_batched(new: Replacement, shapes: dict[tuple[str, ...], ir.Value]) -> None:
    weight = _by_group(new.found)
    groups, inner, outer = weight.shape
    whole = _original_shape(new, groups * outer, shapes)
    cut = add_initializer(new.model, f"groups_{groups}x{inner}", np.array([-1, groups, inner], np.int64))
    new.then("Reshape", (None, groups, inner), cut)
    new.then("Transpose", (groups, None, inner), perm=(1, 0, 2))
    new.then("MatMul", (groups, None, outer), new.factor(weight, "groups", new.found.scale))
    new.then("Transpose", (None, groups, outer), perm=(1, 0, 2))
    new.then("Reshape", (*new.rows, groups * outer), whole)


def _original_shape(new: Replacement, channels: int, shapes: dict[tuple[str, ...], ir.Value]) -> ir.Value:
    """Batch, tokens and ``channels`` as a shape to return to: computed once for all tensors of the same axes."""
    key = (*map(str, new.rows), str(channels))
    if key not in shapes or "None" in key:
        rows = _shape_node(new, "Shape", [new.value], 2, start=0, end=2)
        width = add_initializer(new.model, f"channels_{channels}_axis", np.array([channels], np.int64))
        shapes[key] = _shape_node(new, "Concat", [rows, width], 3, axis=0)
    return shapes[key]


def _shape_node(new: Replacement, operation: str, inputs: list[ir.Value], axes: int, **attributes: int) -> ir.Value:
    node = make_node(new.model, operation, inputs, attributes, like=new.found.node)
    node.outputs[0].shape, node.outputs[0].type = ir.Shape([axes]), ir.TensorType(ir.DataType.INT64)
    new.model.graph.insert_before(new.found.node, node)
    return node.outputs[0]


def _multiply_each(new: Replacement, scales: NDArray[np.generic]) -> None:
    source, weights = new.value, _by_group(new.found)
    groups, inner, outer = weights.shape
    products = []
    for group in range(groups):
        bounds = [_index(new.model, edge) for edge in (group * inner, (group + 1) * inner, 2)]
        part = new.add("Slice", [source, *bounds], (*new.rows, inner), {})
        own = np.ascontiguousarray(scales[group * outer : (group + 1) * outer])
        scale = add_initializer(new.model, f"{new.found.name}_scale_{group}", own)
        factor = new.factor(weights[group], f"group_{group}", scale)
        products.append(new.add("MatMul", [part, factor], (*new.rows, outer), {}))
    new.value = new.add("Concat", products, (*new.rows, groups * outer), {"axis": 2})


def _index(model: ir.Model, number: int) -> ir.Value:
    return add_initializer(model, f"index_{number}", np.array([number], np.int64))
