"""ConstantShapes: targets without arithmetic, the same reshaping at any size, and what cannot be written stays."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from export.passes.constant_shapes import ConstantShapes
from export.passes.qdq_nodes import constant, nodes_of, operand
from tests.test_export.tiny_models import Traced, run_feed

TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
agraph (float[batch, tokens, 12] x) => (%s y)
<int64[1] channels = {12}, int64[2] heads = {3, 4}>
{
    sizes = Shape <start = 0, end = 2> (x)
    batch_size = Shape <start = 0, end = 1> (x)
    token_count = Shape <start = 1, end = 2> (x)
    target = Concat <axis = 0> (%s)
    y = Reshape <allowzero = 1> (x, target)
}
"""


def parse(shape: str, parts: str) -> ir.Model:
    model: ir.Model = ir.from_proto(onnx.parser.parse_model(TEXT % (shape, parts)))
    return model


@pytest.mark.parametrize(
    ("shape", "parts", "target"),
    [
        ("float[batch, tokens, 3, 4]", "sizes, heads", [0, 0, 3, 4]),
        ("float[batch, 12, tokens]", "batch_size, channels, token_count", [0, 12, -1]),
    ],
)
def test_free_axes_need_no_arithmetic(shape: str, parts: str, target: list[int]) -> None:
    graph, before = parse(shape, parts), parse(shape, parts)
    assert ConstantShapes()(graph).modified
    (reshape,) = graph.graph
    assert np.asarray(constant(operand(reshape, 1))).tolist() == target
    for sizes in ((1, 1, 12), (2, 7, 12)):
        x = np.random.default_rng(0).normal(size=sizes).astype(np.float32)
        assert np.array_equal(run_feed(graph, {"x": x}), run_feed(before, {"x": x}))
    assert not ConstantShapes()(graph).modified


def test_two_axes_that_move_keep_their_arithmetic() -> None:
    graph = parse("float[tokens, batch, 12]", "token_count, batch_size, channels")
    assert not ConstantShapes()(graph).modified
    assert len(list(nodes_of(graph, "Concat"))) == 1


def test_every_reshape_in_an_encoder_layer_is_constant(squeezebert: Traced, bert: Traced) -> None:
    for traced in (squeezebert, bert):
        graph = traced.graph.clone()
        ConstantShapes()(graph)
        assert all(constant(operand(node, 1)) is not None for node in nodes_of(graph, "Reshape"))
