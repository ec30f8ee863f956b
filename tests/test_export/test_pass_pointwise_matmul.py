"""PointwiseMatMul: an ungrouped convolution of kernel size 1 becomes a MatMul with the same numbers."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from export.passes.pointwise_matmul import PointwiseMatMul
from export.passes.qdq_nodes import DEQUANTIZE, constant, nodes_of, operand
from tests.test_export.conftest import Trace
from tests.test_export.pointwise_graphs import conv_graph, feed, folded, operations
from tests.test_export.tiny_models import ALBERT, BERT, SQUEEZEBERT, Case, make_batch, row_errors, run_feed, run_graph
from tests.tolerances import GRAPH_FP32


@pytest.mark.parametrize("scales", ["tensor", "channel", "none"])
@pytest.mark.parametrize("bias", [True, False])
def test_the_numbers_stay(scales: str, bias: bool) -> None:
    graph = folded(conv_graph(groups=1, scales=scales, bias=bias))
    lowered = graph.clone()
    assert PointwiseMatMul()(lowered).modified
    onnx.checker.check_model(ir.to_proto(lowered), full_check=True)
    assert operations(lowered).count("MatMul") == 1
    assert "Conv" not in operations(lowered)
    np.testing.assert_allclose(
        run_feed(lowered, feed()), run_feed(graph, feed()), rtol=GRAPH_FP32.value, atol=GRAPH_FP32.value
    )


@pytest.mark.parametrize("scales", ["tensor", "channel"])
def test_the_weight_stays_int8_with_its_scales_on_the_outputs(scales: str) -> None:
    graph = folded(conv_graph(groups=1, scales=scales))
    lowered = graph.clone()
    PointwiseMatMul()(lowered)
    product = next(nodes_of(lowered, "MatMul"))
    source = operand(product, 1).producer()
    assert source is not None
    assert source.op_type == DEQUANTIZE
    levels = constant(operand(source, 0))
    before = constant(graph.graph.initializers["w_int8"])
    assert levels is not None
    assert before is not None
    assert levels.dtype == np.int8
    assert np.array_equal(levels, before[:, :, 0].T)
    assert source.attributes.get_int("axis", 1) == 1
    assert product.name == "layer.conv/MatMul"


@pytest.mark.parametrize("graph", [conv_graph(groups=3), conv_graph(groups=1, kernel=3)], ids=["groups", "kernel"])
def test_other_convolutions_are_left_alone(graph: ir.Model) -> None:
    lowered = folded(graph)
    assert not PointwiseMatMul()(lowered).modified
    assert operations(lowered).count("Conv") == 1


def test_a_second_run_changes_nothing() -> None:
    lowered = folded(conv_graph(groups=1))
    PointwiseMatMul()(lowered)
    once = operations(lowered)
    assert not PointwiseMatMul()(lowered).modified
    assert operations(lowered) == once


def test_unfolded_weights_are_refused() -> None:
    with pytest.raises(ir.passes.PreconditionError) as caught:
        PointwiseMatMul()(conv_graph(groups=1))
    assert str(caught.value) == "'layer.conv/Conv' quantizes its weight in the graph: fold weights first"


def test_squeezebert_keeps_its_answers(trace: Trace) -> None:
    graph = folded(trace(SQUEEZEBERT).graph)
    lowered = graph.clone()
    assert PointwiseMatMul()(lowered).modified
    batch = make_batch(5, 16)
    assert row_errors(run_graph(lowered, batch), run_graph(graph, batch)).max() <= GRAPH_FP32.value


@pytest.mark.parametrize("case", [BERT, ALBERT], ids=str)
def test_a_graph_without_convolutions_stays(case: Case, trace: Trace) -> None:
    lowered = folded(trace(case).graph)
    before = operations(lowered)
    assert not PointwiseMatMul()(lowered).modified
    assert operations(lowered) == before
