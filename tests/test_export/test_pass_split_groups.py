"""SplitGroups: one integer product a group, the same numbers, and runtimes that run it."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from export.exported import Lowering, lower_graph
from export.passes.fold_weights import FoldWeights
from export.passes.qdq_nodes import constant, nodes_of, operand
from export.passes.split_groups import SplitGroups
from export.passes.strip_quantization import StripQuantization
from export.targets import find_target
from qat.recipe import WeightGranularity
from tests.test_export.conftest import Trace
from tests.test_export.tiny_models import SHAPES, Case, Traced, count_apart, make_batch, run_graph
from tests.tolerances import FLIPPED_ROWS

GRANULARITIES: tuple[WeightGranularity, ...] = ("per_tensor", "per_channel")
GROUPS = 2


def case_of(granularity: WeightGranularity) -> Case:
    return Case("convbert", "tensorrt", granularity, shallow=granularity == "per_channel")


def split(graph: ir.Model) -> ir.Model:
    """A split copy of a graph that has something to split."""
    copy = graph.clone()
    assert SplitGroups()(copy).modified
    onnx.checker.check_model(ir.to_proto(copy), full_check=True)
    return copy


def weight_of(matmul: ir.Node) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """The levels and the scale of a product's weight."""
    dequantize = operand(matmul, 1).producer()
    assert dequantize is not None
    levels, scale = constant(operand(dequantize, 0)), constant(operand(dequantize, 1))
    assert levels is not None
    assert scale is not None
    return levels, scale


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_numbers_stay(trace: Trace, granularity: WeightGranularity) -> None:
    folded = trace(case_of(granularity)).graph.clone()
    FoldWeights()(folded)
    parts = split(folded)
    for shape in SHAPES:
        batch = make_batch(*shape)
        assert count_apart(run_graph(parts, batch), run_graph(folded, batch)) <= FLIPPED_ROWS.value


def test_float_numbers_stay(convbert: Traced) -> None:
    plain = convbert.graph.clone()
    StripQuantization()(plain)
    parts = split(plain)
    for shape in SHAPES:
        batch = make_batch(*shape)
        assert count_apart(run_graph(parts, batch), run_graph(plain, batch)) == 0


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_every_group_has_its_int8_matrix_and_the_scales_of_the_whole(
    trace: Trace, granularity: WeightGranularity
) -> None:
    traced = trace(case_of(granularity))
    folded = traced.graph.clone()
    FoldWeights()(folded)
    name = "convbert.encoder.layer.0.output.dense"
    (whole,) = (node for node in nodes_of(folded, "MatMul") if node.name == f"{name}/MatMul")
    levels, scale = weight_of(whole)
    parts = [node for node in nodes_of(split(folded), "MatMul") if (node.name or "").startswith(f"{name}/")]
    assert [node.name for node in parts] == [f"{name}/MatMul_{group}" for group in range(GROUPS)]
    for group, node in enumerate(parts):
        part, steps = weight_of(node)
        assert np.array_equal(part, levels[group])
        assert np.array_equal(steps, scale)


def test_a_second_time_changes_nothing(convbert: Traced) -> None:
    graph = convbert.graph.clone()
    FoldWeights()(graph)
    assert not SplitGroups()(split(graph)).modified


def test_other_families_pass_unchanged(bert: Traced, albert: Traced) -> None:
    for traced in (bert, albert):
        graph = traced.graph.clone()
        FoldWeights()(graph)
        before = ir.to_proto(graph)
        assert not SplitGroups()(graph).modified
        assert ir.to_proto(graph) == before


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_onnxruntime_runs_the_groups_in_integers(trace: Trace, granularity: WeightGranularity, tmp_path: Path) -> None:
    lowered = lower_graph(trace(case_of(granularity)).graph, Lowering(find_target("onnxruntime"), "fp32"))
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    session = ort.InferenceSession(ir.to_proto(lowered).SerializeToString(), options, ["CPUExecutionProvider"])
    assert np.isfinite(session.run(None, dict(make_batch(2, 9)))[0]).all()
    kernels = {node.name: node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    wanted = {name: kind for name, kind in kernels.items() if ".dense/MatMul_" in name and "layer." in name}
    assert set(wanted.values()) == {"MatMulIntegerToFloat"}
