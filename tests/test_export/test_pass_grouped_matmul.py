"""GroupedMatMul: a grouped convolution of kernel size 1 becomes one batched MatMul, or a MatMul a group."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from export.passes.grouped_matmul import GroupedMatMul
from export.passes.qdq_nodes import constant, nodes_of, operand
from tests.test_export.conftest import Trace
from tests.test_export.pointwise_graphs import conv_graph, feed, folded, operations
from tests.test_export.tiny_models import ALBERT, BERT, SQUEEZEBERT, Case, make_batch, row_errors, run_feed, run_graph
from tests.tolerances import GRAPH_FP32

GROUPS = (2, 3, 4, 12)
MANY = Case("squeezebert", "tensorrt", "per_channel", shallow=True)


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("scales", ["tensor", "channel", "none"])
def test_the_numbers_stay(groups: int, scales: str) -> None:
    graph = folded(conv_graph(groups=groups, scales=scales, bias=groups != 3))
    lowered = graph.clone()
    assert GroupedMatMul()(lowered).modified
    onnx.checker.check_model(ir.to_proto(lowered), full_check=True)
    assert operations(lowered).count("MatMul") == (groups if scales == "channel" else 1)
    assert "Conv" not in operations(lowered)
    np.testing.assert_allclose(
        run_feed(lowered, feed()), run_feed(graph, feed()), rtol=GRAPH_FP32.value, atol=GRAPH_FP32.value
    )


@pytest.mark.parametrize("scales", ["tensor", "channel"])
def test_every_weight_stays_int8_and_none_is_added(scales: str) -> None:
    graph = conv_graph(groups=4, scales=scales)
    lowered = folded(graph)
    GroupedMatMul()(lowered)
    arrays = [constant(operand(node, 0)) for node in nodes_of(lowered, "DequantizeLinear")]
    weights = [array for array in arrays if array is not None]
    assert {array.dtype for array in weights} == {np.dtype(np.int8)}
    assert sum(array.size for array in weights) == 24 * 3
    assert {array.ndim for array in weights} == {3 if scales == "tensor" else 2}


@pytest.mark.parametrize("graph", [conv_graph(groups=1), conv_graph(groups=3, kernel=3)], ids=["one", "kernel"])
def test_other_convolutions_are_left_alone(graph: ir.Model) -> None:
    lowered = folded(graph)
    assert not GroupedMatMul()(lowered).modified
    assert operations(lowered).count("Conv") == 1


@pytest.mark.parametrize("scales", ["tensor", "channel"])
def test_a_second_run_changes_nothing(scales: str) -> None:
    lowered = folded(conv_graph(groups=2, scales=scales))
    GroupedMatMul()(lowered)
    once = operations(lowered)
    assert not GroupedMatMul()(lowered).modified
    assert operations(lowered) == once


def test_unfolded_weights_are_refused() -> None:
    with pytest.raises(ir.passes.PreconditionError) as caught:
        GroupedMatMul()(conv_graph(groups=2))
    assert str(caught.value) == "'layer.conv/Conv' quantizes its weight in the graph: fold weights first"


@pytest.mark.parametrize("case", [SQUEEZEBERT, MANY], ids=str)
def test_squeezebert_keeps_its_answers(case: Case, trace: Trace) -> None:
    graph = folded(trace(case).graph)
    lowered = graph.clone()
    assert GroupedMatMul()(lowered).modified
    batch = make_batch(5, 16)
    assert row_errors(run_graph(lowered, batch), run_graph(graph, batch)).max() <= GRAPH_FP32.value


def test_the_shape_to_return_to_is_computed_once_a_width(trace: Trace) -> None:
    graph = folded(trace(SQUEEZEBERT).graph)
    lowered = graph.clone()
    GroupedMatMul()(lowered)
    shapes = [each.outputs[0].shape for each in nodes_of(graph, "Conv") if each.attributes.get_int("group", 1) > 1]
    widths = {shape[1] for shape in shapes if shape is not None}
    assert operations(lowered).count("Shape") == operations(graph).count("Shape") + len(widths)


@pytest.mark.parametrize("case", [BERT, ALBERT], ids=str)
def test_a_graph_without_convolutions_stays(case: Case, trace: Trace) -> None:
    lowered = folded(trace(case).graph)
    before = operations(lowered)
    assert not GroupedMatMul()(lowered).modified
    assert operations(lowered) == before
