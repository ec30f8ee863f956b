"""Every target's lowering of every recipe: executed in ONNX Runtime against the torch model, and what it may hold."""

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from export.exported import Lowering, lower_graph
from export.passes.bound_mask import MASKED_SCORE
from export.passes.half_precision import FP16_MAX
from export.passes.qdq_nodes import DEQUANTIZE, QUANTIZE, constant, nodes_of, operand
from export.targets import find_target
from export.targets.base import Precision
from qat.families import in_encoder_layer
from qat.layers import QuantizedLayer
from qat.quantizer import FakeQuantizer, named_quantizers
from tests.test_export.conftest import Trace
from tests.test_export.tiny_models import (
    DEFAULTS,
    PAIR,
    SHAPES,
    Case,
    Traced,
    count_apart,
    make_batch,
    run_float,
    run_graph,
    run_torch,
)
from tests.tolerances import FLIPPED_ROWS, HALF_TO_INT8

PER_TENSOR = (
    *DEFAULTS,
    Case("bert", "qdqbert", "per_tensor", shallow=True),
    Case("albert", "qdqbert", "per_tensor", shallow=True),
    Case("convbert", "qdqbert", "per_tensor", shallow=True),
    Case("squeezebert", "qdqbert", "per_tensor", shallow=True),
)
CHANNELS = Case("bert", "tensorrt", "per_channel", shallow=True)
PER_CHANNEL = (
    CHANNELS,
    Case("bert", "linear", "per_channel", shallow=True, pair=True),
    Case("albert", "linear", "per_channel", shallow=True),
    Case("convbert", "tensorrt", "per_channel", shallow=True),
    Case("convbert", "linear", "per_channel", shallow=True),
    Case("squeezebert", "tensorrt", "per_channel", shallow=True),
    Case("squeezebert", "linear", "per_channel", shallow=True),
)
BLIND_TO_PADDING = tuple(case for case in DEFAULTS if case.family != "convbert")
"""The families that read no padding; a convolution over tokens does, in float as well."""
LOWERINGS: tuple[tuple[str, Precision], ...] = (
    ("rtx", "fp32"),
    ("rtx", "fp16"),
    ("onnxruntime", "fp32"),
    ("openvino", "fp32"),
)


def lower(traced: Traced, target: str, precision: Precision, *, quantized: bool = True) -> ir.Model:
    return lower_graph(traced.graph, Lowering(find_target(target), precision, quantized=quantized))


def batches_of(traced: Traced) -> list[dict[str, np.ndarray]]:
    inputs = PAIR if traced.case.pair else PAIR[:2]
    return [make_batch(*shape, seed=5, inputs=inputs) for shape in SHAPES]


@pytest.mark.parametrize("target", ["rtx", "onnxruntime"])
@pytest.mark.parametrize("case", [*PER_TENSOR, *PER_CHANNEL], ids=str)
def test_fp32_graphs_are_the_fake_quantized_model(case: Case, target: str, trace: Trace) -> None:
    traced = trace(case)
    graph = lower(traced, target, "fp32")
    apart = [count_apart(run_graph(graph, each), run_torch(traced.model, each)) for each in batches_of(traced)]
    assert sum(apart) <= FLIPPED_ROWS.value


@pytest.mark.parametrize("case", PER_TENSOR, ids=str)
def test_fp16_costs_no_more_than_int8_itself(case: Case, trace: Trace) -> None:
    traced = trace(case)
    graph = lower(traced, "rtx", "fp16")
    lost: list[float] = []
    noise: list[float] = []
    for batch in batches_of(traced):
        fake = run_torch(traced.model, batch)
        lost.append(float(np.square(run_graph(graph, batch) - fake).mean()))
        noise.append(float(np.square(run_float(traced.model, batch) - fake).mean()))
    assert 0 < np.sqrt(np.mean(lost)) <= HALF_TO_INT8.value * np.sqrt(np.mean(noise))


@pytest.mark.parametrize(("target", "precision"), LOWERINGS)
@pytest.mark.parametrize("case", BLIND_TO_PADDING, ids=str)
def test_padding_changes_no_answer(case: Case, target: str, precision: Precision, trace: Trace) -> None:
    graph, batch = lower(trace(case), target, precision), make_batch(3, 11, seed=2)
    wider = {name: np.pad(array, ((0, 0), (0, 30))) for name, array in batch.items()}
    assert count_apart(run_graph(graph, wider), run_graph(graph, batch)) <= FLIPPED_ROWS.value


@pytest.mark.parametrize(("target", "precision"), LOWERINGS)
def test_the_checker_passes_and_the_axes_keep_their_names(traced: Traced, target: str, precision: Precision) -> None:
    proto = ir.to_proto(lower(traced, target, precision))
    onnx.checker.check_model(proto, full_check=True)
    shapes = [[dim.dim_param for dim in value.type.tensor_type.shape.dim] for value in proto.graph.input]
    assert shapes == [["batch", "sequence"]] * 2
    (output,) = proto.graph.output
    assert output.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert output.type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.parametrize(("target", "precision"), LOWERINGS)
@pytest.mark.parametrize("case", [*DEFAULTS, CHANNELS], ids=str)
def test_int8_weights_are_stored_once_and_alone(case: Case, target: str, precision: Precision, trace: Trace) -> None:
    traced = trace(case)
    graph = lower(traced, target, precision)
    layers = [m for m in traced.model.modules() if isinstance(m, QuantizedLayer)]
    planned = [m for m in layers if isinstance(m.weight_quantizer, FakeQuantizer)]
    arrays = [array for value in graph.graph.initializers.values() if (array := constant(value)) is not None]
    matrices = [array for array in arrays if array.dtype == np.int8 and array.ndim > 1]
    assert sum(array.size for array in matrices) == sum(m.weight.numel() for m in planned)
    assert not any(np.array_equal(matrices[i], other) for i in range(len(matrices)) for other in matrices[i + 1 :])
    floats = [array for array in arrays if array.dtype in (np.float32, np.float16)]
    weights = [m.weight.detach().numpy().astype(np.float16) for m in planned]
    assert not any(np.array_equal(a.astype(np.float16), b) for a in floats for w in weights for b in (w, w.T))
    readers = [node.op_type for v in graph.graph.initializers.values() for node, _ in v.uses() if is_matrix(v)]
    assert set(readers) == {DEQUANTIZE}


def is_matrix(value: ir.Value) -> bool:
    return value.dtype == ir.DataType.INT8 and len(value.shape or ()) > 1


def is_share(quantize: ir.Node) -> bool:
    """Whether it quantizes a group's share of the channels, or one token, again with the scale of the whole."""
    source = operand(quantize, 0).producer()
    group = source is not None and source.op_type == "Slice" and "dense/Slice_" in (source.name or "")
    return group or (quantize.name or "").endswith("_token/QuantizeLinear")


@pytest.mark.parametrize(("target", "precision"), LOWERINGS)
@pytest.mark.parametrize("case", [*DEFAULTS, CHANNELS], ids=str)
def test_scales_are_the_models_bit_for_bit(case: Case, target: str, precision: Precision, trace: Trace) -> None:
    traced = trace(case)
    graph = lower(traced, target, precision)
    expected: dict[str, Counter[float]] = {"weight": Counter(), "activation": Counter()}
    for _, quantizer in named_quantizers(traced.model):
        scales = quantizer.amax.numpy() / np.float32(127)
        scales = np.maximum(scales, np.float32(2**-14)).astype(np.float16).astype(np.float32)
        expected["weight" if quantizer.spec.range_source == "weight" else "activation"].update(scales.tolist())
    found: dict[str, Counter[float]] = {"weight": Counter(), "activation": Counter()}
    for node in nodes_of(graph, QUANTIZE, DEQUANTIZE):
        scale, weight = constant(operand(node, 1)), constant(operand(node, 0)) is not None
        assert scale is not None
        assert scale.dtype == (np.float16 if precision == "fp16" else np.float32)
        values = np.atleast_1d(scale).astype(np.float32).tolist()
        counts = weight or (node.op_type == QUANTIZE and not is_share(node))
        found["weight" if weight else "activation"].update(values if counts else ())
    assert found["activation"] == expected["activation"]
    assert set(found["weight"]) == set(expected["weight"])  # q, k and v may be packed under the scale they share


@pytest.mark.parametrize(("target", "precision"), LOWERINGS)
def test_only_activations_are_quantized_in_the_graph_and_no_output(
    traced: Traced, target: str, precision: Precision
) -> None:
    graph = lower(traced, target, precision)
    for node in nodes_of(graph, QUANTIZE):
        assert constant(operand(node, 0)) is None
        assert [use.node.op_type for use in node.outputs[0].uses()] == [DEQUANTIZE]
    final = graph.graph.outputs[0].producer()
    assert final is not None
    assert final.op_type in ("Gemm", "Cast")
    kinds = {"rtx": np.int8, "onnxruntime": np.uint8, "openvino": np.int8}
    zeros = [constant(operand(node, 2)) for node in nodes_of(graph, QUANTIZE)]
    assert {(zero.dtype.type, int(zero)) for zero in zeros if zero is not None} == {
        (kinds[target], 128 if target == "onnxruntime" else 0)
    }
    assert all(zero is not None for zero in zeros)


def test_fp16_graphs_hold_no_fp32_and_cast_at_the_edges_only(traced: Traced) -> None:
    graph = lower(traced, "rtx", "fp16")
    assert [n for n, v in graph.graph.initializers.items() if v.dtype == ir.DataType.FLOAT] == []
    casts = [(operand(node, 0).dtype, node.outputs[0].dtype) for node in nodes_of(graph, "Cast")]
    assert casts == [(ir.DataType.INT64, ir.DataType.FLOAT16), (ir.DataType.FLOAT16, ir.DataType.FLOAT)]
    norms = list(nodes_of(graph, "LayerNormalization"))
    assert len(norms) == 1 + 2 * traced.case.layers
    assert {node.attributes.get_int("stash_type", 1) for node in norms} == {1}


@pytest.mark.parametrize(("target", "precision"), LOWERINGS)
def test_the_mask_is_bounded(traced: Traced, target: str, precision: Precision) -> None:
    graph = lower(traced, target, precision)
    arrays = [constant(value) for value in graph.graph.initializers.values()]
    lowest = min(float(array.min()) for array in arrays if array is not None and array.dtype.kind == "f")
    assert lowest == MASKED_SCORE
    assert lowest > -FP16_MAX
    assert sum(not in_encoder_layer(node.name or "") for node in nodes_of(graph, "Unsqueeze")) == 1


@pytest.mark.parametrize(("target", "precision"), LOWERINGS)
def test_the_float_twin_is_the_float_model(traced: Traced, target: str, precision: Precision) -> None:
    twin = lower(traced, target, "fp32", quantized=False)
    assert not list(nodes_of(lower(traced, target, precision, quantized=False), QUANTIZE, DEQUANTIZE))
    for batch in batches_of(traced):
        assert count_apart(run_graph(twin, batch), run_float(traced.model, batch)) == 0


def test_lowering_changes_neither_the_traced_graph_nor_the_next_lowering(traced: Traced) -> None:
    def content(graph: ir.Model) -> bytes:
        serialized: bytes = ir.to_proto(graph).SerializeToString(deterministic=True)
        return serialized

    before = content(traced.graph)
    alone = {each: content(lower(traced, *each)) for each in LOWERINGS}
    lower(traced, "rtx", "fp16", quantized=False)
    assert {each: content(lower(traced, *each)) for each in reversed(LOWERINGS)} == alone
    assert content(traced.graph) == before
