"""UnsignedActivations: UINT8 around 128 holds the numbers of INT8 around 0."""

import numpy as np
import onnx_ir as ir
import pytest

from export.passes.fold_weights import FoldWeights
from export.passes.qdq_nodes import DEQUANTIZE, QUANTIZE, constant, nodes_of, operand
from export.passes.unsigned_activations import UnsignedActivations
from tests.test_export.tiny_models import SHAPES, Traced, make_batch, run_graph

TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
agraph (float[n] x) => (float[n] y) <float s = {0.5}, int8 z = {0}> {
    [q] a = QuantizeLinear(x, s, z)
    [dq] y = DequantizeLinear(a, s, z)
}
"""


@pytest.fixture
def folded(traced: Traced) -> ir.Model:
    graph = traced.graph.clone()
    FoldWeights()(graph)
    return graph


def test_the_numbers_are_the_same_bit_for_bit(folded: ir.Model) -> None:
    shifted = folded.clone()
    assert UnsignedActivations()(shifted).modified
    for shape in SHAPES:
        batch = make_batch(*shape)
        assert np.array_equal(run_graph(shifted, batch), run_graph(folded, batch))


def test_every_level_of_int8_has_its_uint8() -> None:
    model = ir.from_onnx_text(TEXT)
    feed = {"x": np.array([*np.arange(-70, 70, 0.25), -1e9, 1e9], np.float32)}
    before = run_graph(model, feed)  # type: ignore[arg-type]
    UnsignedActivations()(model)
    assert np.array_equal(run_graph(model, feed), before)  # type: ignore[arg-type]
    assert len(set(before.tolist())) == 256


def test_activations_are_uint8_and_weights_stay_int8(folded: ir.Model) -> None:
    UnsignedActivations()(folded)
    found = set()
    for node in nodes_of(folded, QUANTIZE, DEQUANTIZE):
        zero, weight = constant(operand(node, 2)), constant(operand(node, 0)) is not None
        assert zero is not None
        found.add((weight, str(zero.dtype), *np.unique(zero).tolist()))
    assert found == {(False, "uint8", 128), (True, "int8", 0)}


def test_shifted_activations_are_left_alone(folded: ir.Model) -> None:
    assert UnsignedActivations()(folded).modified
    assert not UnsignedActivations()(folded).modified
    assert not UnsignedActivations()(ir.from_onnx_text(TEXT.replace("int8 z = {0}", "uint8 z = {128}"))).modified


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace("float[n] x) =>", "float[n] w) =>").replace("> {", ", float[2] x = {1.0, 2.0}> {"),
        TEXT.replace("float s = {0.5}", "float[2] s = {0.5, 1.0}").replace("int8 z = {0}", "int8[2] z = {0, 0}"),
        TEXT.replace("float[n] x)", "float[n] x, float s)").replace("float s = {0.5}, ", ""),
    ],
    ids=["weight", "channels", "changing scale"],
)
def test_what_is_no_per_tensor_activation_is_refused(text: str) -> None:
    with pytest.raises(ir.passes.PreconditionError) as caught:
        UnsignedActivations()(ir.from_onnx_text(text))
    assert str(caught.value) == "'q' is not a per-tensor activation: fold weights first"


def test_levels_that_something_else_reads_are_refused() -> None:
    text = TEXT.replace("float[n] y)", "float[n] y, float[n] v)").replace("[dq]", "v = Cast <to: int = 1> (a) [dq]")
    with pytest.raises(ir.passes.PreconditionError, match=r"^'q' feeds something else than DequantizeLinear$"):
        UnsignedActivations()(ir.from_onnx_text(text))
