"""Embedding tables as INT8 with a scale a row: the largest tensor of a small encoder at half its FP16 size."""

from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.passes.qdq_nodes import DEQUANTIZE, add_initializer, constant, hand_over, operand, remove_dead, zero_point
from qat.spec import INT8_MAX, LARGEST_SCALE, SMALLEST_SCALE

Order = Literal["dequantize_first", "gather_first"]
_SMALLEST_TABLE = 2**12
"""Elements; the two rows of token types would not pay for the nodes they take."""


class Int8Embeddings(ir.passes.InPlacePass):
    """Stores embedding tables in INT8.

    Rules: (1) a float table that only ``Gather`` reads, by rows, is kept as ``round(row / scale)`` with the row's scale
    ``max(abs(row)) / 127``, an FP16 value in every precision; (2) it is dequantized by 1, which is exact, and the rows
    that the tokens pick are multiplied by their scales, picked likewise; (3) smaller tables, and those that a head
    reads too, stay.

    Args:
        order: TensorRT takes an INT8 constant only into a DequantizeLinear, and fuses that, the gathers and the
            product into the LayerNormalization that follows. ONNX Runtime runs node by node: it has to pick first, or
            it dequantizes the whole table for every batch (7.7 ms instead of 0.4 for 30,522 x 384).
    """

    def __init__(self, order: Order) -> None:
        super().__init__()
        self.order = order

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """The model with INT8 tables."""
        tables = [value for value in model.graph.initializers.values() if _is_table(value)]
        for value in tables:
            table = constant(value)
            assert table is not None
            levels, scales = quantize_rows(table)
            kept = add_initializer(model, f"{value.name}_int8", levels)
            steps = add_initializer(model, f"{value.name}_scales", scales)
            for use in list(value.uses()):
                _lower(model, use.node, kept, steps, self.order)
        remove_dead(model)
        return ir.passes.PassResult(model, modified=bool(tables))

    def ensures(self, model: ir.Model) -> None:
        """No large float table is left that only tokens read."""
        left = [value.name for value in model.graph.initializers.values() if _is_table(value)]
        if left:
            raise ir.passes.PostconditionError(f"float tables are left: {left[:3]}")


def quantize_rows(table: NDArray[np.generic]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """The INT8 levels of a table and the scale of each row, ``(rows, 1)``, an FP16 value as a quantizer's.

    >>> levels, scales = quantize_rows(np.array([[1.0, -127.0], [0.0, 0.0]], np.float32))
    >>> levels.tolist(), scales.tolist()
    ([[1, -127], [0, 0]], [[1.0], [6.103515625e-05]])
    """
    exact = table.astype(np.float32)
    largest = np.abs(exact).max(axis=1, keepdims=True) / np.float32(INT8_MAX)
    scales = largest.clip(SMALLEST_SCALE, LARGEST_SCALE).astype(np.float16).astype(np.float32)
    levels = np.rint(exact / scales).clip(-INT8_MAX - 1, INT8_MAX).astype(np.int8)
    return levels, scales


def _is_table(value: ir.Value) -> bool:
    table = constant(value)
    uses = list(value.uses())
    return (
        table is not None
        and table.ndim == 2
        and table.shape[1] > 1
        and table.dtype == np.float32
        and table.size >= _SMALLEST_TABLE
        and bool(uses)
        and all(use.node.op_type == "Gather" and use.idx == 0 and _axis(use.node) == 0 for use in uses)
    )


def _axis(gather: ir.Node) -> int:
    return gather.attributes.get_int("axis", 0)


def _lower(model: ir.Model, gather: ir.Node, levels: ir.Value, scales: ir.Value, order: Order) -> None:
    """Two nodes for the rows of a gather, in either order, and two for their scales."""
    tokens, rows = operand(gather, 1), gather.outputs[0]
    one, zero = (
        add_initializer(model, "embedding_scale_one", np.array(1, np.float32)),
        zero_point(model, np.int8, 0, ()),
    )
    rest = {DEQUANTIZE: [one, zero], "Gather": [tokens]}
    made: list[ir.Node] = []
    value = levels
    for operation in (DEQUANTIZE, "Gather") if order == "dequantize_first" else ("Gather", DEQUANTIZE):
        made.append(ir.node(operation, [value, *rest[operation]], name=f"{gather.name}_int8_{operation}"))
        value = made[-1].outputs[0]
    made.append(ir.node("Gather", [scales, tokens], name=f"{gather.name}_scales_Gather"))
    made.append(ir.node("Mul", [value, made[-1].outputs[0]], name=f"{gather.name}_Mul"))
    for node in made:
        node.outputs[0].name = f"{node.name}_output"
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    made[0].outputs[0].type = ir.TensorType(ir.DataType.INT8 if order == "gather_first" else ir.DataType.FLOAT)
    model.graph.insert_before(gather, made)
    made[-1].outputs[0].shape = rows.shape
    hand_over(rows, made[-1].outputs[0])
