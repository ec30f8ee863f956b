"""FoldWeights: the INT8 levels are those of NumPy, stored once, and the graph computes what it did."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from export.passes.fold_weights import FoldWeights, quantize_weight
from export.passes.qdq_nodes import DEQUANTIZE, QUANTIZE, constant, nodes_of, operand
from qat.layers import QuantLinear
from qat.quantizer import FakeQuantizer
from tests.test_export.conftest import Trace
from tests.test_export.tiny_models import ALBERT, BERT, Case, count_apart, make_batch, run_graph
from tests.tolerances import FLIPPED_ROWS

CHANNELS = Case("bert", "tensorrt", "per_channel", shallow=True)

MATRIX = """
<ir_version: 10, opset_import: ["" : 20]>
agraph (float[n, 2] x) => (float[n, 3] y)
<float[3, 2] w = {0.5, -1.0, 1.5, 2.5, -3.5, 300.0}, float[3] s = {1.0, 0.5, 2.0}, int8[3] z = {0, 0, 0}> {
    [q] wq = QuantizeLinear <axis: int = 0> (w, s, z)
    [dq] wd = DequantizeLinear <axis: int = 0> (wq, s, z)
    [t] wt = Transpose <perm: ints = [1, 0]> (wd)
    [m] y = MatMul(x, wt)
}
"""


def divide_and_round(weight: NDArray[Any], scale: NDArray[Any]) -> NDArray[np.int8]:
    """The oracle: plain NumPy, one row of a ``(out, in)`` weight a scale or one scale for all."""
    rows = np.broadcast_to(scale.astype(np.float32).reshape(-1), (len(weight),))
    levels = [np.round(row.astype(np.float32) / step) for row, step in zip(weight, rows, strict=True)]
    clipped: NDArray[np.int8] = np.minimum(np.maximum(np.array(levels), -128), 127).astype(np.int8)
    return clipped


def folded_weights(graph: ir.Model) -> dict[str, tuple[NDArray[Any], NDArray[Any], int | None]]:
    """Levels, scale and axis of every folded weight, by the module that owns it."""
    found = {}
    for node in nodes_of(graph, DEQUANTIZE):
        levels, scale = constant(operand(node, 0)), constant(operand(node, 1))
        if levels is not None and scale is not None:
            axis = node.attributes.get_int("axis") if "axis" in node.attributes else None
            owner = (operand(node, 0).name or "").removeprefix("model.").removesuffix(".weight_int8")
            found[owner] = (levels, scale, axis)
    return found


@pytest.mark.parametrize("case", [BERT, ALBERT, CHANNELS], ids=str)
def test_levels_are_numpys_bit_for_bit(case: Case, trace: Trace) -> None:
    traced = trace(case)
    graph = traced.graph.clone()
    assert FoldWeights()(graph).modified
    found = folded_weights(graph)
    planned = {name: module for name, module in traced.model.named_modules() if isinstance(module, QuantLinear)}
    planned = {n: m for n, m in planned.items() if isinstance(m.weight_quantizer, FakeQuantizer)}
    assert set(found) == set(planned)
    for name, module in planned.items():
        levels, scale, axis = found[name]
        assert np.array_equal(levels, divide_and_round(module.weight.detach().numpy(), scale).T)
        assert (axis, scale.shape) == ((1, (module.out_features,)) if case is CHANNELS else (None, ()))


@pytest.mark.parametrize("case", [BERT, ALBERT, CHANNELS], ids=str)
def test_the_graph_computes_what_it_did(case: Case, trace: Trace) -> None:
    before = trace(case).graph
    after = before.clone()
    FoldWeights()(after)
    batch = make_batch(6, 21)
    assert count_apart(run_graph(after, batch), run_graph(before, batch)) <= FLIPPED_ROWS.value
    assert not FoldWeights()(after).modified


def test_a_shared_weight_is_stored_once_and_read_by_one_node(trace: Trace) -> None:
    graph = trace(ALBERT).graph.clone()
    before = len([node for node in nodes_of(graph, QUANTIZE) if constant(operand(node, 0)) is not None])
    FoldWeights()(graph)
    stored = [name for name, value in graph.graph.initializers.items() if name.endswith("_int8")]
    assert before >= 6
    assert len(stored) == 6
    assert not any(
        name.endswith(".weight") and "albert_layers" in name and "Norm" not in name and "norm" not in name
        for name in graph.graph.initializers
    )


def test_a_transposed_matrix_is_stored_as_it_is_read_with_its_axis() -> None:
    model = ir.from_onnx_text(MATRIX)
    feed = {"x": np.array([[1.0, 2.0]], np.float32)}
    before = run_graph(model, feed)  # type: ignore[arg-type]
    FoldWeights()(model)
    assert [node.op_type for node in model.graph] == [DEQUANTIZE, "MatMul"]
    levels, scale, axis = folded_weights(model)["w_int8"]
    assert levels.tolist() == [[0, 3, -2], [-1, 5, 127]]
    assert (scale.tolist(), axis) == ([1.0, 0.5, 2.0], 1)
    assert np.array_equal(run_graph(model, feed), before)  # type: ignore[arg-type]
    assert set(model.graph.initializers) == {"w_int8", "s", "zero_point_int8_0_3"}


def test_a_weight_read_both_ways_keeps_its_layout() -> None:
    text = MATRIX.replace("float[n, 3] y)", "float[n, 3] y, float[3, 2] v)").replace("[m]", "v = Relu(wd) [m]")
    model = ir.from_onnx_text(text)
    FoldWeights()(model)
    levels, _, axis = folded_weights(model)["w_int8"]
    assert (levels.shape, axis) == ((3, 2), 0)


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=4, max_size=4), st.floats(2**-14, 100, width=16))
def test_any_weight_and_scale_give_numpys_levels(values: list[float], step: float) -> None:
    weight, scale = np.array(values, np.float32).reshape(2, 2), np.array([step, 1.0], np.float32)
    assert np.array_equal(quantize_weight(weight, scale, 0), divide_and_round(weight, scale))
    assert np.array_equal(quantize_weight(weight.T, scale, 1), divide_and_round(weight, scale).T)


def test_a_scale_that_changes_is_refused() -> None:
    text = MATRIX.replace("float[n, 2] x)", "float[n, 2] x, float[3] s)").replace("float[3] s = {1.0, 0.5, 2.0}, ", "")
    with pytest.raises(ir.passes.PreconditionError, match=r"^the scale of 'q' is not a constant$"):
        FoldWeights()(ir.from_onnx_text(text))


def test_levels_that_something_else_reads_are_refused() -> None:
    text = MATRIX.replace("float[n, 3] y)", "float[n, 3] y, float[3, 2] v)").replace("[m]", "v = Cast<to=1>(wq) [m]")
    with pytest.raises(ir.passes.PreconditionError, match=r"^'q' feeds something else than DequantizeLinear$"):
        FoldWeights()(ir.from_onnx_text(text))


def test_a_weight_left_quantized_breaks_the_promise() -> None:
    with pytest.raises(ir.passes.PostconditionError, match=r"^weights still quantized in the graph: \['q'\]$"):
        FoldWeights().ensures(ir.from_onnx_text(MATRIX))
