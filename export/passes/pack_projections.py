"""One projection for q, k and v: a single MatMul, a single bias, a single transposition, one Split at the end.

TensorRT for RTX 1.7 merges the three MatMuls by itself, but gives q, k and v a kernel each for bias, quantization and
transposition. Packed in the graph, one kernel writes all three (six layers: 60 kernels instead of 72). The quantizers
of q, k and v stay, each with its own scale, so no number changes. Where q, k and v stay float this form wins nothing,
and with a scale a channel it loses the INT8 kernel: the packed product runs in FP16 (two layers: 63.4 MB and 32
kernels instead of 59.8 and 30). With parts and heads on one axis the builder would merge them in FP16 too (66 kernels
become 54; INT8 stays at 60).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.passes.qdq_nodes import (
    DEQUANTIZE,
    QUANTIZE,
    add_initializer,
    constant,
    hand_over,
    nodes_of,
    operand,
    remove_dead,
    zero_point,
)

_PARTS = 3
_HEADS_FIRST, _HEADS_FIRST_SWAPPED = [0, 2, 1, 3], [0, 2, 3, 1]
_Shape = Sequence[int | ir.SymbolicDim]


class PackProjections(ir.passes.InPlacePass):
    """Packs the three projections of an attention.

    Rules: (1) three chains of MatMul by a constant, Add of a constant bias, Reshape to heads and Transpose to heads
    first become one, where all three read one value and nothing else reads inside them; (2) weights and biases lie side
    by side; INT8 weights stay INT8 under one DequantizeLinear, with the scale they share, or with theirs side by side
    where each channel has its own and q, k and v are quantized; per-tensor scales that differ are left alone;
    (3) layers that share their weights share the packed one; (4) what comes out is shaped
    ``(batch, tokens, 3, heads, size)``, transposed once to ``(3, batch, heads, tokens, size)``, and cut.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """The model with packed projections."""
        groups: dict[ir.Value, list[_Projection]] = {}
        for matmul in nodes_of(model, "MatMul"):
            projection = _read_projection(matmul)
            if projection is not None:
                groups.setdefault(operand(matmul, 0), []).append(projection)
        modified = False
        for source, group in groups.items():
            weight = _pack_weights(model, group) if _fit_together(group) else None
            if weight is not None:
                _pack(model, source, group, weight)
                modified = True
        if modified:
            remove_dead(model)
        return ir.passes.PassResult(model, modified=modified)

    def ensures(self, model: ir.Model) -> None:
        """Every node has a name of its own."""
        names = [node.name for node in model.graph]
        if len(set(names)) != len(names):
            raise ir.passes.PostconditionError("packing made two nodes of one name")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Projection:
    """MatMul, Add, Reshape and Transpose of one of q, k and v; ``weight`` and ``scale`` lie as MatMul reads them."""

    matmul: ir.Node
    add: ir.Node
    reshape: ir.Node
    transpose: ir.Node
    weight: NDArray[np.generic]
    weight_name: str
    bias: NDArray[np.generic]
    scale: ir.Value | None
    heads: tuple[int, int]

    @property
    def swapped(self) -> bool:
        """Whether tokens come last, as in a key that is transposed for the product with the query."""
        return _permutation(self.transpose) == _HEADS_FIRST_SWAPPED

    @property
    def quantized(self) -> bool:
        """Whether what comes out is read by quantizers alone."""
        return all(use.node.op_type == QUANTIZE for use in self.transpose.outputs[0].uses())


def _read_projection(matmul: ir.Node) -> _Projection | None:
    add = _only_reader(matmul, "Add")
    reshape = None if add is None else _only_reader(add, "Reshape")
    transpose = None if reshape is None else _only_reader(reshape, "Transpose")
    if add is None or reshape is None or transpose is None:
        return None
    bias = next((array for array in map(constant, add.inputs) if array is not None), None)
    sizes = [size for size in list(reshape.outputs[0].shape or ())[2:] if isinstance(size, int)]
    found = _read_weight(operand(matmul, 1))
    known = _permutation(transpose) in (_HEADS_FIRST, _HEADS_FIRST_SWAPPED)
    if found is None or bias is None or bias.ndim != 1 or len(sizes) != 2 or not known:
        return None
    weight, name, scale = found
    return _Projection(
        matmul=matmul, add=add, reshape=reshape, transpose=transpose, weight=weight, weight_name=name, bias=bias,
        scale=scale, heads=(sizes[0], sizes[1]),
    )  # fmt: skip


def _only_reader(node: ir.Node, op_type: str) -> ir.Node | None:
    uses = list(node.outputs[0].uses())
    alone = len(uses) == 1 and uses[0].node.op_type == op_type and not node.outputs[0].is_graph_output()
    return uses[0].node if alone else None


def _permutation(transpose: ir.Node) -> list[int]:
    return list(transpose.attributes.get_ints("perm", []))


def _read_weight(value: ir.Value) -> tuple[NDArray[np.generic], str, ir.Value | None] | None:
    """A constant matrix as MatMul reads it, its name, and the scale where it is INT8; None for anything else."""
    node, scale = value.producer(), None
    if node is not None and node.op_type == DEQUANTIZE:
        value, scale = operand(node, 0), operand(node, 1)
        if node.attributes.get_int("axis", 1) != 1:
            return None
    elif node is not None and node.op_type == "Transpose" and _permutation(node) == [1, 0]:
        inner = constant(operand(node, 0))
        return None if inner is None else (inner.T, operand(node, 0).name or "weight", None)
    array = constant(value)
    return None if array is None or array.ndim != 2 else (array, value.name or "weight", scale)


def _fit_together(group: list[_Projection]) -> bool:
    alike = {(each.weight.shape, each.bias.shape, each.heads, each.weight.dtype) for each in group}
    return len(group) == _PARTS and len(alike) == 1 and group[0].bias.size == group[0].heads[0] * group[0].heads[1]


def _pack_weights(model: ir.Model, group: list[_Projection]) -> ir.Value | None:
    """The weights side by side; None where their scales are no common ones."""
    scale = _pack_scales(model, group)
    if scale is None and group[0].scale is not None:
        return None
    array = np.concatenate([each.weight for each in group], axis=1)
    weight = add_initializer(model, f"{group[0].weight_name}_qkv", array)
    if scale is None:
        return weight
    steps = constant(scale)
    channels = () if steps is None or steps.size == 1 else steps.shape
    zero, axis = zero_point(model, np.int8, 0, channels), {"axis": 1} if channels else {}
    name = _name_packed(group[0], DEQUANTIZE)
    node = _make(group[0], DEQUANTIZE, [weight, scale, zero], array.shape, name=name, **axis)
    model.graph.insert_before(group[0].matmul, node)
    return node.outputs[0]


def _pack_scales(model: ir.Model, group: list[_Projection]) -> ir.Value | None:
    scales = [array for array in (constant(each.scale) for each in group) if array is not None]
    if len(scales) != len(group):
        return None
    if all(scale.size == 1 for scale in scales):
        return group[0].scale if len({scale.item() for scale in scales}) == 1 else None
    if any(scale.shape != group[0].bias.shape for scale in scales) or not all(each.quantized for each in group):
        return None
    return add_initializer(model, f"{group[0].weight_name}_qkv_scale", np.concatenate(scales))


def _pack(model: ir.Model, source: ir.Value, group: list[_Projection], weight: ir.Value) -> None:
    first, (heads, size) = group[0], group[0].heads
    batch, tokens = list(first.reshape.outputs[0].shape or ())[:2]
    joined = np.concatenate([each.bias for each in group])
    bias = add_initializer(model, f"{first.weight_name}_qkv_bias", joined)
    by_part = add_initializer(model, f"qkv_shape_{heads}x{size}", np.array([0, 0, _PARTS, heads, size], np.int64))
    steps: list[tuple[str, list[ir.Value], _Shape, dict[str, Sequence[int]]]] = [
        ("MatMul", [weight], (batch, tokens, joined.size), {}),
        ("Add", [bias], (batch, tokens, joined.size), {}),
        ("Reshape", [by_part], (batch, tokens, _PARTS, heads, size), {}),
        ("Transpose", [], (_PARTS, batch, heads, tokens, size), {"perm": [2, 0, 3, 1, 4]}),
    ]
    value, nodes = source, []
    for operation, constants, shape, attributes in steps:
        name = _name_packed(first, operation)
        nodes.append(_make(first, operation, [value, *constants], shape, name=name, **attributes))
        value = nodes[-1].outputs[0]
    split = _split(value, first)
    cuts = [node for part, each in zip(split.outputs, group, strict=True) for node in _cut(model, part, each)]
    model.graph.insert_before(first.matmul, [*nodes, split, *cuts])


def _split(packed: ir.Value, first: _Projection) -> ir.Node:
    """The node that cuts the packed three apart."""
    name = _name_packed(first, "Split")
    node = ir.node("Split", [packed], {"axis": 0, "num_outputs": _PARTS}, num_outputs=_PARTS, name=name)
    for index, output in enumerate(node.outputs):
        output.name, output.type = f"{name}_output_{index}", packed.type
        output.shape = ir.Shape((1, *list(packed.shape or ())[1:]))
    return node


def _cut(model: ir.Model, packed: ir.Value, part: _Projection) -> list[ir.Node]:
    """The nodes between one of the three and its readers, which are moved over to them."""
    batch, heads, tokens, size = list(packed.shape or ())[1:]
    axis = add_initializer(model, "qkv_axis", np.array([0], np.int64))
    path, number = (part.matmul.name or "").rpartition("/")[0], _run_number(part)
    nodes = [_make(part, "Squeeze", [packed, axis], (batch, heads, tokens, size), name=f"{path}/Squeeze{number}")]
    if part.swapped:
        inputs, shape, name = [nodes[-1].outputs[0]], (batch, heads, size, tokens), f"{path}/Transpose{number}"
        nodes.append(_make(part, "Transpose", inputs, shape, name=name, perm=[0, 1, 3, 2]))
    hand_over(part.transpose.outputs[0], nodes[-1].outputs[0])
    return nodes


def _make(
    like: _Projection,
    operation: str,
    inputs: list[ir.Value],
    shape: _Shape,
    *,
    name: str,
    **attributes: int | Sequence[int],
) -> ir.Node:
    """A node whose output has a name, that shape, and the type of what it replaces."""
    node = ir.node(operation, inputs, attributes, name=name)
    output = node.outputs[0]
    output.name, output.shape = f"{name}_output", ir.Shape(shape)
    output.type = like.matmul.outputs[0].type
    return node


def _name_packed(first: _Projection, operation: str) -> str:
    """``<path of the attention>/<operation>_qkv``, with the number that tells the runs of a shared layer apart."""
    return f"{(first.reshape.name or '').rpartition('/')[0]}/{operation}_qkv{_run_number(first)}"


def _run_number(projection: _Projection) -> str:
    return (projection.matmul.name or "").rpartition("/")[2].removeprefix("MatMul")
