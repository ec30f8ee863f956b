"""Packed projections: same numbers and levels, shared weights stored once, fewer kernels; other graphs left alone."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from export.audit.build_audit import audit_engine
from export.audit.engine_audit import EngineAudit
from export.engine_spec import parse_shapes
from export.exported import Lowering, lower_graph
from export.passes.fold_weights import FoldWeights
from export.passes.pack_projections import PackProjections
from export.passes.strip_quantization import StripQuantization
from export.targets import find_target
from qat.recipe import WeightGranularity
from tests.test_export.conftest import Trace
from tests.test_export.tiny_models import SHAPES, Batch, Case, FamilyName, Traced, make_batch, run_graph
from tests.tolerances import PACKED

HARDWARE = ("sm_86", "sm_89", "sm_120")
FAMILIES: tuple[FamilyName, ...] = ("bert", "albert")
GRANULARITIES: tuple[WeightGranularity, ...] = ("per_tensor", "per_channel")
ALBERT_ATTENTION = "albert.encoder.albert_layer_groups.0.albert_layers.0.attention"


def fold(traced: Traced) -> ir.Model:
    """A copy of the traced graph, weights folded, not packed."""
    graph = traced.graph.clone()
    FoldWeights()(graph)
    return graph


def pack(graph: ir.Model) -> ir.Model:
    """A packed copy, of a graph that has something to pack."""
    packed = graph.clone()
    assert PackProjections()(packed).modified
    onnx.checker.check_model(ir.to_proto(packed), full_check=True)
    return packed


def read_levels(graph: ir.Model, batch: Batch) -> dict[str, NDArray[np.int8]]:
    """The levels of every activation's QuantizeLinear, by node name, node by node in ONNX Runtime."""
    proto = ir.to_proto(graph)
    constants = {tensor.name for tensor in proto.graph.initializer}
    quantizers = [n for n in proto.graph.node if n.op_type == "QuantizeLinear" and n.input[0] not in constants]
    for node in quantizers:
        proto.graph.output.append(onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.INT8, None))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = session.run([node.output[0] for node in quantizers], dict(batch))
    return {node.name: levels for node, levels in zip(quantizers, found, strict=True)}


def names_of(graph: ir.Model) -> list[str | None]:
    return [node.name for node in graph.graph]


def audit(graph: ir.Model, path: Path) -> EngineAudit:
    ir.save(graph, path)
    return audit_engine(
        path,
        hardware=HARDWARE,
        shapes=parse_shapes("1x1,8x32,16x64"),
        fixed=(8, 32),
        in_encoder=lambda name: ".encoder.layer." in name or ".albert_layers." in name,
    )


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("family", FAMILIES)
def test_levels_and_numbers_stay_as_traced(trace: Trace, family: FamilyName, granularity: WeightGranularity) -> None:
    traced = trace(Case(family, "tensorrt", granularity))
    folded = fold(traced)
    packed = pack(folded)
    before, after = ([node.op_type for node in each.graph].count("MatMul") for each in (folded, packed))
    assert after == before - 2 * traced.case.layers
    for rows, tokens in SHAPES:
        batch = make_batch(rows, tokens, seed=7)
        expected, found = read_levels(traced.graph, batch), read_levels(packed, batch)
        assert found.keys() == expected.keys()
        for name, levels in found.items():
            np.testing.assert_array_equal(levels, expected[name], err_msg=name)
        difference = np.abs(run_graph(packed, batch) - run_graph(traced.graph, batch))
        assert difference.max() <= PACKED.value


@pytest.mark.parametrize("recipe", ["tensorrt", "linear"])
@pytest.mark.parametrize("family", FAMILIES)
def test_float_attention_keeps_its_numbers(trace: Trace, family: FamilyName, recipe: str) -> None:
    traced = trace(Case(family, recipe, "per_tensor"))
    twin = traced.graph.clone()
    StripQuantization()(twin)
    batch = make_batch(5, 16, seed=7)
    for graph in (twin, fold(traced)):
        difference = np.abs(run_graph(pack(graph), batch) - run_graph(graph, batch))
        assert difference.max() <= PACKED.value


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_shared_layer_stores_its_packed_weight_once(trace: Trace, granularity: WeightGranularity) -> None:
    packed = pack(fold(trace(Case("albert", "tensorrt", granularity))))
    stored = [(tuple(value.shape or ()), value.dtype) for value in packed.graph.initializers.values()]
    assert stored.count(((64, 192), ir.DataType.INT8)) == 1
    assert stored.count(((64, 64), ir.DataType.INT8)) == 1  # the attention's output projection; q, k and v are gone
    assert stored.count(((192,), ir.DataType.FLOAT)) == {"per_tensor": 1, "per_channel": 2}[granularity]


@pytest.mark.parametrize("family", FAMILIES)
def test_engine_has_no_more_kernels_than_its_float_twin(trace: Trace, family: FamilyName, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the builder of the tests: pip install 'qdq[rtx]'")
    traced, target = trace(Case(family, "tensorrt", "per_tensor")), find_target("rtx")
    found = audit(lower_graph(traced.graph, Lowering(target, "fp16")), tmp_path / "int8.onnx")
    twin = audit(lower_graph(traced.graph, Lowering(target, "fp16", quantized=False)), tmp_path / "float.onnx")
    assert found.as_planned
    assert (found.int8_gemms, found.int8_attentions) == (4 * traced.case.layers, traced.case.layers)
    assert found.int8_mac_share == 1.0
    assert found.kernels <= twin.kernels


def test_scales_a_channel_are_packed_only_where_q_k_and_v_are_quantized(trace: Trace, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the builder of the tests: pip install 'qdq[rtx]'")
    traced = trace(Case("bert", "linear", "per_channel", shallow=True, pair=True))
    assert not PackProjections()(fold(traced)).modified
    found = audit(lower_graph(traced.graph, Lowering(find_target("tensorrt"), "fp16")), tmp_path / "model.onnx")
    assert (found.int8_gemms, found.float_gemms) == (4, 0)


def test_names_tell_the_module_and_the_run_of_a_shared_layer(trace: Trace) -> None:
    names = names_of(pack(fold(trace(Case("albert", "tensorrt", "per_tensor")))))
    products = [name for name in names if name is not None and "/MatMul_qkv" in name]
    assert products == [f"{ALBERT_ATTENTION}/MatMul_qkv{run}" for run in ("", "_1")]
    assert {f"{ALBERT_ATTENTION}.key/Squeeze_1", f"{ALBERT_ATTENTION}.key_quantizer/QuantizeLinear_1"} <= set(names)


def test_weights_whose_scales_differ_are_left_alone(trace: Trace) -> None:
    graph = fold(trace(Case("bert", "qdqbert", "per_tensor")))
    before = names_of(graph)
    assert not PackProjections()(graph).modified
    assert names_of(graph) == before


def test_projection_that_something_else_reads_is_left_alone(trace: Trace) -> None:
    graph = fold(trace(Case("bert", "tensorrt", "per_tensor")))
    query = next(node for node in graph.graph if node.name == "bert.encoder.layer.0.attention.self.query/Add")
    graph.graph.outputs.append(query.outputs[0])
    packed = pack(graph)
    names = names_of(packed)
    assert "bert.encoder.layer.0.attention.self.query/Add" in names
    assert "bert.encoder.layer.0.attention.self/MatMul_qkv" not in names
    assert "bert.encoder.layer.1.attention.self/MatMul_qkv" in names


def test_packed_graph_has_nothing_left_to_pack(trace: Trace) -> None:
    packed = pack(fold(trace(Case("bert", "tensorrt", "per_tensor"))))
    assert not PackProjections()(packed).modified
