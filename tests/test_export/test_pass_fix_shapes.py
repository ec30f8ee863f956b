"""FixShapes: no axis is free, sizes are numbers, and the graph says what the dynamic one says."""

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from export.exported import Lowering, lower_graph
from export.passes.fix_shapes import FixShapes
from export.passes.qdq_nodes import nodes_of
from export.settings import ExportSettings
from export.targets import find_target
from export.targets.base import Precision
from tests.test_export.conftest import Trace
from tests.test_export.test_targets import CHANNELS, LOWERINGS, lower
from tests.test_export.tiny_models import Traced, make_batch, run_feed, run_graph

SHAPE = (5, 16)
TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
agraph (int64[batch, tokens] x) => (float[batch, tokens, 2] y)
<float[9, 2] table = {0,0, 1,1, 2,2, 3,3, 4,4, 5,5, 6,6, 7,7, 8,8}, int64[1, 9] places = {0,1,2,3,4,5,6,7,8},
 int64[1] zero = {0}, int64[1] one = {1}, int8[9, 2] levels = {0,0, 1,1, 2,2, 3,3, 4,4, 5,5, 6,6, 7,7, 8,8},
 float scale = {0.5}, int8 middle = {0}>
{
    size = Shape <start = 1, end = 2> (x)
    own = Slice (places, zero, size, one, one)
    position = Gather (table, own)
    stored = DequantizeLinear (levels, scale, middle)
    word = Gather (stored, x)
    y = Add (word, position)
}
"""


def fix(traced: Traced, target: str, precision: Precision) -> ir.Model:
    return lower_graph(traced.graph, Lowering(find_target(target), precision, settings=ExportSettings(shape=SHAPE)))


def test_what_follows_from_sizes_is_stored_and_dequantizers_stay() -> None:
    graph, before = ir.from_onnx_text(TEXT), ir.from_onnx_text(TEXT)
    assert FixShapes({"batch": 3, "tokens": 4})(graph).modified
    assert [node.op_type for node in graph.graph] == ["DequantizeLinear", "Gather", "Add"]
    assert [str(value.shape) for value in (*graph.graph.inputs, *graph.graph.outputs)] == ["[3,4]", "[3,4,2]"]
    feed = {"x": np.arange(12).reshape(3, 4) % 9}
    assert np.array_equal(run_feed(graph, feed), run_feed(before, feed))
    assert not FixShapes({"batch": 3, "tokens": 4})(graph).modified


def test_an_axis_without_a_size_is_an_error() -> None:
    with pytest.raises(ir.passes.PostconditionError, match=r"^input 'x' has a free axis: \[3,"):
        FixShapes({"batch": 3})(ir.from_onnx_text(TEXT))


@pytest.mark.parametrize(("target", "precision"), LOWERINGS)
def test_a_fixed_graph_says_bit_for_bit_what_the_dynamic_one_says(
    traced: Traced, target: str, precision: Precision
) -> None:
    graph, dynamic = fix(traced, target, precision), lower(traced, target, precision)
    onnx.checker.check_model(ir.to_proto(graph), full_check=True)
    values = [*graph.graph.inputs, *(output for node in graph.graph for output in node.outputs)]
    assert all(value.shape is not None and value.shape.is_static() for value in values)
    assert not list(nodes_of(graph, "Shape"))
    batch = make_batch(*SHAPE, seed=3)
    assert np.array_equal(run_graph(graph, batch), run_graph(dynamic, batch))


def test_a_fixed_graph_has_the_products_and_quantizers_of_the_dynamic_one(traced: Traced) -> None:
    kinds = ("MatMul", "Gemm", "QuantizeLinear", "DequantizeLinear", "LayerNormalization", "Softmax")
    fixed, dynamic = (
        Counter(node.op_type for node in graph.graph if node.op_type in kinds)
        for graph in (fix(traced, "rtx", "fp16"), lower(traced, "rtx", "fp16"))
    )
    assert fixed == dynamic


def test_weights_a_channel_are_fixed_as_well(trace: Trace) -> None:
    traced = trace(CHANNELS)
    batch = make_batch(*SHAPE, seed=3)
    dynamic = lower(traced, "onnxruntime", "fp32")
    assert np.array_equal(run_graph(fix(traced, "onnxruntime", "fp32"), batch), run_graph(dynamic, batch))
