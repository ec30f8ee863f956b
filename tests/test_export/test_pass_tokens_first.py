"""TokensFirst: swaps of channels and tokens cancel, heads are cut from the last axis, no number changes."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from export.exported import Lowering, lower_graph
from export.passes.grouped_matmul import GroupedMatMul
from export.passes.pointwise_matmul import PointwiseMatMul
from export.passes.qdq_nodes import nodes_of
from export.passes.tokens_first import TokensFirst
from export.targets import find_target
from tests.test_export.conftest import Trace
from tests.test_export.pointwise_graphs import folded, operations
from tests.test_export.tiny_models import (
    ALBERT,
    BERT,
    SHAPES,
    SQUEEZEBERT,
    Case,
    Traced,
    make_batch,
    run_feed,
    run_graph,
)

GELU = """
<ir_version: 10, opset_import: ["" : 20]>
agraph (float[b, t, 6] x, float[b, 6, t] z) => (float[b, t, 6] y)
<float half = {0.5}, float[2] pair = {1.0, 2.0}, float scale = {0.1}, int8 zero = {0}> {
    turned = Transpose <perm = [0, 2, 1]> (x)
    halved = Mul(half, turned)
    levels = QuantizeLinear(halved, scale, zero)
    rounded = DequantizeLinear(levels, scale, zero)
    active = Gelu(rounded)
    summed = Add(active, turned)
    BODY
}
"""
BACK = "y = Transpose <perm = [0, 2, 1]> (summed)"
MIXED = """mixed = Add(summed, z)
    y = Transpose <perm = [0, 2, 1]> (mixed)"""


def read(body: str) -> ir.Model:
    """The graph of that text, its values with shapes and its nodes named."""
    proto = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(GELU.replace("BODY", body)))
    for number, node in enumerate(proto.graph.node):
        node.name = f"layer/{node.op_type}_{number}"
    return ir.from_proto(proto)


def feed() -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    chance = np.random.default_rng(0)
    return {
        "x": chance.normal(size=(2, 5, 6)).astype(np.float32),
        "z": chance.normal(size=(2, 6, 5)).astype(np.float32),
    }


def products(traced: Traced) -> ir.Model:
    """A traced graph, its convolutions products, before anything is moved."""
    graph = folded(traced.graph)
    PointwiseMatMul()(graph)
    GroupedMatMul()(graph)
    return graph


def count_swaps(graph: ir.Model) -> int:
    return sum(tuple(node.attributes.get_ints("perm", [])) == (0, 2, 1) for node in nodes_of(graph, "Transpose"))


def test_what_works_on_single_numbers_works_before_the_swap() -> None:
    graph = read(BACK)
    moved = graph.clone()
    assert TokensFirst()(moved).modified
    onnx.checker.check_model(ir.to_proto(moved), full_check=True)
    assert "Transpose" not in operations(moved)
    assert [value.name for value in moved.graph.outputs] == ["y"]
    assert np.array_equal(run_feed(moved, feed()), run_feed(graph, feed()))


def test_an_operand_in_the_other_layout_stops_it() -> None:
    graph = read(MIXED)
    moved = graph.clone()
    assert TokensFirst()(moved).modified
    assert count_swaps(moved) == 2
    assert np.array_equal(run_feed(moved, feed()), run_feed(graph, feed()))


@pytest.mark.parametrize("weights", ["per_tensor", "per_channel"])
@pytest.mark.parametrize("recipe", ["tensorrt", "linear", "qdqbert"])
def test_squeezebert_has_no_swap_left_and_the_same_answers(recipe: str, weights: str, trace: Trace) -> None:
    traced = trace(Case("squeezebert", recipe, weights, shallow=True))  # type: ignore[arg-type]
    graph = products(traced)
    moved = graph.clone()
    assert TokensFirst()(moved).modified
    onnx.checker.check_model(ir.to_proto(moved), full_check=True)
    assert count_swaps(graph) > 0
    assert count_swaps(moved) == 0
    for shape in SHAPES:
        batch = make_batch(*shape)
        assert np.array_equal(run_graph(moved, batch), run_graph(graph, batch))


def test_heads_are_cut_from_tokens_first(trace: Trace) -> None:
    lowered = lower_graph(trace(SQUEEZEBERT).graph, Lowering(find_target("onnxruntime"), "fp32"))
    perms = {tuple(node.attributes.get_ints("perm", [])) for node in nodes_of(lowered, "Transpose")}
    assert {perm for perm in perms if len(perm) == 4} == {(0, 2, 1, 3), (0, 2, 3, 1)}


def test_a_second_run_changes_nothing(trace: Trace) -> None:
    moved = products(trace(SQUEEZEBERT))
    TokensFirst()(moved)
    once = operations(moved)
    assert not TokensFirst()(moved).modified
    assert operations(moved) == once


@pytest.mark.parametrize("case", [BERT, ALBERT], ids=str)
def test_a_graph_without_swaps_stays(case: Case, trace: Trace) -> None:
    graph = folded(trace(case).graph)
    before = operations(graph)
    assert not TokensFirst()(graph).modified
    assert operations(graph) == before
