"""Int8Embeddings: a scale a row, the same numbers in either order, and tables that are not only embeddings stay."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from export.passes.int8_embeddings import Int8Embeddings, Order, quantize_rows
from export.passes.qdq_nodes import constant, nodes_of
from tests.test_export.tiny_models import run_feed

ROWS, WIDTH = 600, 40
ORDERS = ("dequantize_first", "gather_first")


def make_table(seed: int = 0) -> NDArray[np.float32]:
    chance = np.random.default_rng(seed)
    table = chance.normal(size=(ROWS, WIDTH)) * chance.uniform(0.01, 2, size=(ROWS, 1))
    return np.asarray(table, np.float32)


def make_graph(table: NDArray[np.float32], more: str = "", output: str = "") -> ir.Model:
    rows, width = table.shape
    model = ir.from_onnx_text(f"""
    <ir_version: 10, opset_import: ["" : 20]>
    agraph (int64[n, m] tokens) => (float[n, m, {width}] y{output}) <float[{rows}, {width}] table = {{0.0}}> {{
        [words] y = Gather(table, tokens)
        {more}
    }}
    """)
    model.graph.initializers["table"].const_value = ir.tensor(table, name="table")
    return model


def dequantized(table: NDArray[np.float32]) -> NDArray[np.float32]:
    """What NumPy makes of the table, in FP64 up to the one rounding of the product."""
    scale = np.maximum(np.abs(table.astype(np.float64)).max(1, keepdims=True) / 127, 2.0**-14)
    scale = scale.astype(np.float32).astype(np.float16).astype(np.float64)
    levels = np.clip(np.round(table / scale.astype(np.float32)), -128, 127)
    rows: NDArray[np.float32] = (levels * scale).astype(np.float32)
    return rows


@pytest.mark.parametrize("order", ORDERS)
def test_the_rows_are_those_of_the_rounded_table(order: Order) -> None:
    table = make_table()
    model = make_graph(table)
    assert Int8Embeddings(order)(model).modified
    tokens = np.random.default_rng(1).integers(0, ROWS, size=(3, 50))
    assert np.array_equal(run_feed(model, {"tokens": tokens}), dequantized(table)[tokens])
    arrays = {name: constant(value) for name, value in model.graph.initializers.items()}
    sizes = {name: array.nbytes for name, array in arrays.items() if array is not None}
    assert sizes == {
        "table_int8": ROWS * WIDTH,
        "table_scales": 4 * ROWS,
        "embedding_scale_one": 4,
        **{name: 1 for name in sizes if name.startswith("zero_point")},
    }
    operations = [node.op_type for node in model.graph]
    first = ["DequantizeLinear", "Gather"] if order == "dequantize_first" else ["Gather", "DequantizeLinear"]
    assert operations == [*first, "Gather", "Mul"]
    assert all(node.name.startswith("words_") for node in model.graph if node.name is not None)
    assert not Int8Embeddings(order)(model).modified


@given(st.integers(0, 2**32 - 1))
def test_no_value_moves_by_more_than_half_a_step(seed: int) -> None:
    table = make_table(seed)
    levels, scales = quantize_rows(table)
    assert levels.dtype == np.int8
    assert np.array_equal(scales, scales.astype(np.float16).astype(np.float32))
    moved = np.abs(levels * scales.astype(np.float64) - table)
    clipped = np.abs(table) > 127 * scales.astype(np.float64)
    assert (moved <= np.where(clipped, 0.5 + 127 * 2.0**-11, 0.5 * (1 + 2.0**-20)) * scales).all()


def test_a_row_of_zeros_and_one_beyond_fp16_have_scales_that_fp16_holds() -> None:
    levels, scales = quantize_rows(np.array([[0.0, 0.0], [1e9, -1.0]], np.float32))
    assert scales.tolist() == [[2.0**-14], [65504.0]]
    assert levels.tolist() == [[0, 0], [127, 0]]


@pytest.mark.parametrize(
    ("more", "output"),
    [
        ("z = Transpose <perm: ints = [1, 0]> (table)", ", float[a, b] z"),
        ("z = Gather <axis: int = 1> (table, tokens)", ", float[a, b, c] z"),
    ],
    ids=["a head reads it too", "columns are picked"],
)
def test_a_table_that_is_not_only_picked_from_stays(more: str, output: str) -> None:
    model = make_graph(make_table(), more, output)
    assert not Int8Embeddings("gather_first")(model).modified
    assert "table" in model.graph.initializers


def test_a_small_table_stays() -> None:
    model = make_graph(make_table()[:2])
    assert not Int8Embeddings("gather_first")(model).modified
    assert [node.op_type for node in nodes_of(model, "Gather")] == ["Gather"]


def test_two_gathers_share_one_table() -> None:
    model = make_graph(make_table(), "z = Gather(table, tokens)", ", float[n, m, k] z")
    Int8Embeddings("gather_first")(model)
    assert sorted(name for name in model.graph.initializers if name.startswith("table")) == [
        "table_int8",
        "table_scales",
    ]
