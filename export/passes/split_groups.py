"""A grouped Linear as one product a group, each with a matrix of its own, as ONNX Runtime's integer kernels take it.

Exported it is one batched product with a weight ``(groups, in, out)``. TensorRT for RTX 1.7 runs that as one INT8 GEMM
that reads and writes the groups where they lie, and is left with it (four layers of two groups: 71 kernels, 83 when
split). ONNX Runtime 1.31 fails on it when it runs: its integer kernel takes no scale a column for such a weight.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.passes.qdq_nodes import (
    DEQUANTIZE,
    QUANTIZE,
    add_initializer,
    constant,
    nodes_of,
    operand,
    remove_dead,
    zero_point,
)
from export.passes.shifted_products import NodeChain

_GROUPS_FIRST = [1, 0, 2]


class SplitGroups(ir.passes.InPlacePass):
    """Splits batched products of groups of channels.

    Rules: (1) a MatMul by a constant ``(groups, in, out)`` between two Transposes that put the groups first and back is
    one; (2) each group multiplies its slice of the channels, and the results are joined; (3) where the input is
    dequantized, each slice is quantized again with the same scale, which changes no level and lets the runtime drop
    both; (4) INT8 weights stay INT8, scales a column serve every group.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """The model with a product for each group."""
        found = [each for matmul in nodes_of(model, "MatMul") if (each := _read_grouped(matmul)) is not None]
        for grouped in found:
            _split(model, grouped)
        if found:
            remove_dead(model)
        return ir.passes.PassResult(model, modified=bool(found))

    def ensures(self, model: ir.Model) -> None:
        """No grouped product is left."""
        left = [matmul.name for matmul in nodes_of(model, "MatMul") if _read_grouped(matmul) is not None]
        if left:
            raise ir.passes.PostconditionError(f"grouped products are left: {left[:3]}")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Grouped:
    """The MatMul, what it reads ``(batch, tokens, in)``, its result, its weight and that one's DequantizeLinear."""

    matmul: ir.Node
    values: ir.Value
    result: ir.Value
    weight: NDArray[np.generic]
    name: str
    dequantize: ir.Node | None


def _read_grouped(matmul: ir.Node) -> _Grouped | None:
    weight, dequantize = operand(matmul, 1), operand(matmul, 1).producer()
    if dequantize is not None and dequantize.op_type == DEQUANTIZE:
        weight = operand(dequantize, 0)
    array, before, after = constant(weight), operand(matmul, 0).producer(), _only_reader(matmul)
    if array is None or array.ndim != 3 or not _puts_groups(before) or not _puts_groups(after):
        return None
    assert before is not None
    assert after is not None
    spread, joined = operand(before, 0).producer(), _only_reader(after)
    if spread is None or joined is None or spread.op_type != "Reshape" or joined.op_type != "Reshape":
        return None
    return _Grouped(
        matmul=matmul, values=operand(spread, 0), result=joined.outputs[0], weight=array, name=weight.name or "weight",
        dequantize=dequantize if array.dtype == np.int8 else None,
    )  # fmt: skip


def _puts_groups(node: ir.Node | None) -> bool:
    return (
        node is not None and node.op_type == "Transpose" and list(node.attributes.get_ints("perm", [])) == _GROUPS_FIRST
    )


def _only_reader(node: ir.Node) -> ir.Node | None:
    uses = list(node.outputs[0].uses())
    return uses[0].node if len(uses) == 1 else None


def _split(model: ir.Model, grouped: _Grouped) -> None:
    groups, width, out = grouped.weight.shape
    shape = list(grouped.values.shape or ())
    chain = NodeChain(model, (grouped.matmul.name or "").rpartition("/")[0], grouped.values)
    source, products = grouped.values.producer(), []
    for group in range(groups):
        part = [*shape[:2], width]
        x = chain.slice(f"Slice_{group}", grouped.values, (group * width, (group + 1) * width), 2, part)
        if source is not None and source.op_type == DEQUANTIZE:
            x = _quantize_again(chain, x, source, group)
        weight = _weight_of(model, chain, grouped, group)
        products.append(chain.add(f"MatMul_{group}", [x, weight], [*shape[:2], out]))
    joined = chain.add("Concat_groups", products, [*shape[:2], groups * out], {"axis": -1})
    model.graph.insert_before(grouped.matmul, chain.nodes)
    ir.convenience.replace_all_uses_with(grouped.result, joined)


def _quantize_again(chain: NodeChain, x: ir.Value, source: ir.Node, group: int) -> ir.Value:
    scale, zero = operand(source, 1), operand(source, 2)
    shape = list(x.shape or ())
    levels = chain.add(f"{QUANTIZE}_{group}", [x, scale, zero], shape)
    levels.type = ir.TensorType(ir.DataType.INT8)
    return chain.add(f"{DEQUANTIZE}_{group}", [levels, scale, zero], shape)


def _weight_of(model: ir.Model, chain: NodeChain, grouped: _Grouped, group: int) -> ir.Value:
    array = grouped.weight[group]
    weight = add_initializer(model, f"{grouped.name}_{group}", array)
    if grouped.dequantize is None:
        return weight
    scale = operand(grouped.dequantize, 1)
    sizes = scale.shape.numpy() if scale.shape is not None else ()
    zero = zero_point(model, np.int8, 0, sizes)
    return chain.add(f"{DEQUANTIZE}_weight_{group}", [weight, scale, zero], array.shape, {"axis": 1} if sizes else {})
