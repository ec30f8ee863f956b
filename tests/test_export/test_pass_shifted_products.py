"""Convolutions over tokens as sums of shifted products: the same numbers, no gathered windows, once and for all."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from export.passes.depthwise_convolution import DepthwiseConvolution
from export.passes.qdq_nodes import nodes_of
from export.passes.shifted_products import NodeChain, sum_shifted
from export.passes.span_convolution import SpanConvolution
from export.passes.strip_quantization import StripQuantization
from tests.test_export.tiny_models import SHAPES, Traced, count_apart, make_batch, run_graph
from tests.tolerances import FLIPPED_ROWS, SHIFTED

PASSES = (SpanConvolution, DepthwiseConvolution)
rewrites = pytest.mark.parametrize("step", PASSES)


@pytest.mark.parametrize("kernel", [1, 3, 9])
@pytest.mark.parametrize("tokens", [1, 2, 12])
def test_the_sum_is_a_convolution(kernel: int, tokens: int) -> None:
    chance = np.random.default_rng(kernel)
    values = chance.normal(size=(2, tokens, 4)).astype(np.float32)
    factors = chance.normal(size=(kernel, 4)).astype(np.float32)
    padded = np.pad(values, ((0, 0), (kernel // 2, kernel // 2), (0, 0)))
    expected = sum(factors[k] * padded[:, k : k + tokens] for k in range(kernel))
    assert np.array_equal(run_sum(values, factors), expected)


def run_sum(values: NDArray[np.float32], factors: NDArray[np.float32]) -> NDArray[np.float32]:
    """``sum_shifted`` as onnx's own reference computes it."""
    source = ir.Value(name="x", shape=ir.Shape(["batch", "tokens", 4]), type=ir.TensorType(ir.DataType.FLOAT))
    model = ir.Model(ir.Graph([source], [], nodes=[], opset_imports={"": 20}), ir_version=10)
    chain = NodeChain(model, "chain", source)
    constants = [ir.Value(name=f"w{k}", const_value=ir.tensor(row, name=f"w{k}")) for k, row in enumerate(factors)]
    for constant in constants:
        model.graph.register_initializer(constant)
    total = sum_shifted(chain, source, constants)
    model.graph.extend(chain.nodes)
    model.graph.outputs.append(total)
    (found,) = ReferenceEvaluator(ir.to_proto(model)).run(None, {"x": values})
    return np.asarray(found, np.float32)


@rewrites
def test_the_numbers_stay(step: type[ir.passes.InPlacePass], convbert: Traced) -> None:
    plain = convbert.graph.clone()
    StripQuantization()(plain)
    rewritten = plain.clone()
    assert step()(rewritten).modified
    onnx.checker.check_model(ir.to_proto(rewritten), full_check=True)
    for shape in SHAPES:
        batch = make_batch(*shape)
        assert count_apart(run_graph(rewritten, batch), run_graph(plain, batch)) == 0


@rewrites
def test_the_numbers_of_a_quantized_graph_stay(step: type[ir.passes.InPlacePass], convbert: Traced) -> None:
    rewritten = convbert.graph.clone()
    assert step()(rewritten).modified
    for shape in SHAPES:
        batch = make_batch(*shape)
        assert count_apart(run_graph(rewritten, batch), run_graph(convbert.graph, batch)) <= FLIPPED_ROWS.value


@rewrites
def test_a_second_time_changes_nothing(step: type[ir.passes.InPlacePass], convbert: Traced) -> None:
    rewritten = convbert.graph.clone()
    step()(rewritten)
    names = [node.name for node in rewritten.graph]
    assert not step()(rewritten).modified
    assert [node.name for node in rewritten.graph] == names
    assert len(set(names)) == len(names)


@rewrites
def test_other_families_pass_unchanged(step: type[ir.passes.InPlacePass], bert: Traced, albert: Traced) -> None:
    for traced in (bert, albert):
        graph = traced.graph.clone()
        assert not step()(graph).modified
        assert ir.to_proto(graph) == ir.to_proto(traced.graph.clone())


def test_no_window_is_gathered(convbert: Traced) -> None:
    graph = convbert.graph.clone()
    SpanConvolution()(graph)
    inside = {node.op_type for node in graph.graph if ".attention.self/" in (node.name or "")}
    assert not {"Gather", "Range", "Shape"} & inside
    products = [
        node.name for node in nodes_of(graph, "MatMul") if (node.name or "").rpartition("/")[0].endswith("self")
    ]
    assert len(products) == 2 * convbert.case.layers, "the two products of each attention"


def make_conv(*, group: int, stride: int = 1, pad: int = 1) -> ir.Model:
    """A Conv of kernel 3 and 4 channels on transposed tokens."""
    weight = np.random.default_rng(0).normal(size=(4, 4 // group, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], name="t", perm=[0, 2, 1]),
        helper.make_node("Conv", ["t", "w", "b"], ["c"], name="conv", group=group, strides=[stride], pads=[pad, pad]),
        helper.make_node("Relu", ["c"], ["y"], name="relu"),
    ]  # fmt: skip
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "tokens", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4, None])
    constants = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.arange(4, dtype=np.float32), "b")]
    graph = helper.make_graph(nodes, "conv", [x], [y], constants)
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


def test_a_depthwise_convolution_with_a_bias() -> None:
    plain = make_conv(group=4)
    rewritten = plain.clone()
    assert DepthwiseConvolution()(rewritten).modified
    assert not list(nodes_of(rewritten, "Conv"))
    x = np.random.default_rng(1).normal(size=(2, 7, 4)).astype(np.float32)
    expected, found = (
        np.asarray(next(iter(ReferenceEvaluator(ir.to_proto(each)).run(None, {"x": x}))), np.float32)
        for each in (plain, rewritten)
    )
    np.testing.assert_allclose(found, expected, rtol=SHIFTED.value, atol=SHIFTED.value)


@pytest.mark.parametrize(
    "conv", [{"group": 1}, {"group": 2}, {"group": 4, "stride": 2}, {"group": 4, "pad": 0}], ids=str
)
def test_other_convolutions_stay(conv: dict[str, int]) -> None:
    assert not DepthwiseConvolution()(make_conv(**conv)).modified
