"""KeepReadTokens: the last layer for one token, the same answer, and nothing where other tokens are read."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from export.passes.constant_shapes import ConstantShapes
from export.passes.keep_read_tokens import KeepReadTokens
from export.passes.qdq_nodes import nodes_of, operand
from tests.test_export.conftest import Trace
from tests.test_export.tiny_models import SHAPES, Case, count_apart, make_batch, run_feed, run_graph

CASES = [Case(family, "tensorrt", "per_channel", shallow=True) for family in ("bert", "albert")]
GRAPH = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[batch, tokens, 4] x) => (float[batch, 4] y%s)
<float[4, 4] w = {1,2,3,4, 5,6,7,8, 1,0,1,0, 2,2,2,2}, int64 row = {%d}>
{
    product = MatMul (x, w)
    active = Gelu (product)
    %s
    y = Gather <axis = 1> (%s, row)
}
"""


def parse(body: str, source: str, outputs: str = "", *, token: int = 0) -> ir.Model:
    """A product, an activation, ``body``, and a head that reads one token of ``source``."""
    parsed = onnx.parser.parse_model(GRAPH % (outputs, token, body, source))
    model: ir.Model = ir.from_proto(onnx.shape_inference.infer_shapes(parsed))
    return model


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_answer_is_the_same_and_the_last_layer_narrow(case: Case, trace: Trace) -> None:
    traced = trace(case)
    graph = traced.graph.clone()
    assert ConstantShapes()(graph).modified
    assert KeepReadTokens()(graph).modified
    for shape in SHAPES:
        batch = make_batch(*shape, seed=5)
        assert count_apart(run_graph(graph, batch), run_graph(traced.graph, batch)) == 0
    rows = [list(node.outputs[0].shape or ())[-2] for node in nodes_of(graph, "MatMul")]
    assert rows.count(1) == 6  # query, scores, context, its projection, both of the feed-forward block
    assert rows[-6:] != [1] * 6  # key and value stay whole
    onnx.checker.check_model(ir.to_proto(graph), full_check=True)


def test_a_tensor_that_another_node_reads_whole_is_cut_where_it_is_read() -> None:
    graph = parse("other = Relu (active)", "active", ", float[batch, tokens, 4] other")
    assert not KeepReadTokens()(graph).modified
    assert [operand(node, 0).name for node in nodes_of(graph, "Gather")] == ["active"]


def test_where_tokens_are_mixed_nothing_is_narrow() -> None:
    graph = parse(
        "axes = Constant <value_ints = [1]> ()\n mixed = ReduceSum (active, axes)\n sum = Add (active, mixed)", "sum"
    )
    assert not KeepReadTokens()(graph).modified  # no product would be spared
    assert [node.op_type for node in graph.graph].count("Gather") == 1


def test_the_first_token_is_taken_out_before_the_product() -> None:
    graph, before = parse("", "active"), parse("", "active")
    assert KeepReadTokens()(graph).modified
    x = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    assert np.array_equal(run_feed(graph, {"x": x}), run_feed(before, {"x": x}))
    assert [operand(node, 0).name for node in nodes_of(graph, "Gather")] == ["x", "active"]
    assert not KeepReadTokens()(graph).modified


def test_a_head_that_reads_another_token_is_left_alone() -> None:
    assert not KeepReadTokens()(parse("", "active", token=1)).modified
