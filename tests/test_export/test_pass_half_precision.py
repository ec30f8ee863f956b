"""HalfPrecision: FP16 all through, FP32 answers, and a refusal where a number would not survive."""

import numpy as np
import onnx_ir as ir
import pytest

from export.passes.bound_mask import BoundMask
from export.passes.fold_weights import FoldWeights
from export.passes.half_precision import HalfPrecision
from export.passes.qdq_nodes import DEQUANTIZE, QUANTIZE, constant, nodes_of, operand
from export.passes.strip_quantization import StripQuantization
from tests.test_export.tiny_models import SHAPES, Traced, make_batch, row_errors, run_graph
from tests.tolerances import FLOAT_FP16

TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
agraph (int64[n, 2] x) => (float[n, 2] y, int64[2] z)
<float[2] g = {1.0, 2.0}, float[2] b = {0.25, 0.1}, float s = {0.5}, int8 zero = {0}, int64[2] z = {1, 2}> {
    half = Constant <value: tensor = float {0.1}> ()
    [in] a = Cast <to: int = 1> (x)
    [out] i = Cast <to: int = 7> (a)
    [back] c = Cast <to: int = 1> (i)
    d = Mul(c, half)
    [q] e = QuantizeLinear(d, s, zero)
    [dq] f = DequantizeLinear(e, s, zero)
    [norm] y = LayerNormalization <axis: int = -1, epsilon: float = 1e-5> (f, g, b)
}
"""


def test_a_float_graph_stays_within_the_roundings_of_fp16(traced: Traced) -> None:
    plain = traced.graph.clone()
    StripQuantization()(plain)
    BoundMask()(plain)
    half = plain.clone()
    assert HalfPrecision()(half).modified
    for shape in SHAPES:
        batch = make_batch(*shape)
        assert row_errors(run_graph(half, batch), run_graph(plain, batch)).max() <= FLOAT_FP16.value


def test_everything_is_fp16_but_integers_and_the_answers() -> None:
    model = ir.from_onnx_text(TEXT)
    feed = {"x": np.array([[3, -70]])}
    before = run_graph(model, feed)
    HalfPrecision()(model)
    assert {name: value.dtype for name, value in model.graph.initializers.items()} == {
        "g": ir.DataType.FLOAT16,
        "b": ir.DataType.FLOAT16,
        "s": ir.DataType.FLOAT16,
        "zero": ir.DataType.INT8,
        "z": ir.DataType.INT64,
    }
    casts = {node.name: node.attributes["to"].as_int() for node in nodes_of(model, "Cast")}
    assert casts == {"in": 10, "out": 7, "back": 10, "y/Cast": 1}
    assert next(nodes_of(model, "Constant")).attributes["value"].as_tensor().dtype == ir.DataType.FLOAT16
    assert [(value.name, value.dtype) for value in model.graph.outputs] == [
        ("y", ir.DataType.FLOAT),
        ("z", ir.DataType.INT64),
    ]
    after = run_graph(model, feed)
    assert after.dtype == np.float32
    assert row_errors(after, before).max() <= FLOAT_FP16.value


def test_scales_and_levels_are_the_same_numbers(traced: Traced) -> None:
    full = traced.graph.clone()
    for step in (FoldWeights(), BoundMask()):
        step(full)
    half = full.clone()
    HalfPrecision()(half)
    pairs = list(zip(nodes_of(full, QUANTIZE, DEQUANTIZE), nodes_of(half, QUANTIZE, DEQUANTIZE), strict=True))
    assert len(pairs) > 40
    for before, after in pairs:
        scales = [constant(operand(node, 1)) for node in (before, after)]
        assert scales[0] is not None
        assert scales[1] is not None
        assert scales[1].dtype == np.float16
        assert np.array_equal(scales[0], scales[1].astype(np.float32))


def test_a_graph_without_floats_is_not_modified() -> None:
    text = '<ir_version: 10, opset_import: ["" : 20]> agraph (int64[n] x) => (int64[n] y) { y = Add(x, x) }'
    model = ir.from_onnx_text(text)
    assert not HalfPrecision()(model).modified
    assert [node.op_type for node in model.graph] == ["Add"]


@pytest.mark.parametrize(("number", "named"), [("70000.0", "7e+04"), ("-1e30", "1e+30"), ("65520.0", "6.552e+04")])
def test_a_constant_that_fp16_cannot_hold_is_named(number: str, named: str) -> None:
    model = ir.from_onnx_text(TEXT.replace("{1.0, 2.0}", "{1.0, " + number + "}"))
    with pytest.raises(ir.passes.PreconditionError) as caught:
        HalfPrecision()(model)
    assert str(caught.value) == f"'g' holds {named}, beyond FP16's 65504: export with --precision fp32"


def test_the_largest_fp16_number_is_fine() -> None:
    assert HalfPrecision()(ir.from_onnx_text(TEXT.replace("{1.0, 2.0}", "{1.0, 65504.0}"))).modified


def test_a_constant_that_is_not_a_number_is_named() -> None:
    model = ir.from_onnx_text(TEXT)
    model.graph.initializers["b"].const_value = ir.tensor(np.array([0.5, np.nan], np.float32))
    with pytest.raises(ir.passes.PreconditionError, match=r"^'b' holds nan, beyond FP16's 65504: export with --prec"):
        HalfPrecision()(model)


def test_the_traced_mask_has_to_be_bounded_first(bert: Traced) -> None:
    with pytest.raises(ir.passes.PreconditionError, match=r"holds 3\.403e\+38, beyond FP16's 65504"):
        HalfPrecision()(bert.graph.clone())


def test_a_scale_that_fp16_would_change_is_refused() -> None:
    with pytest.raises(ir.passes.PreconditionError) as caught:
        HalfPrecision()(ir.from_onnx_text(TEXT.replace("float s = {0.5}", "float s = {0.1}")))
    assert str(caught.value) == (
        "the scale of 'q' is no FP16 value and would change: export with --precision fp32, or calibrate again"
    )


def test_a_layer_norm_that_would_square_in_fp16_breaks_the_promise() -> None:
    model = ir.from_onnx_text(TEXT.replace("axis: int = -1, epsilon", "axis: int = -1, stash_type: int = 10, epsilon"))
    with pytest.raises(ir.passes.PostconditionError, match=r"^'norm' would square in FP16$"):
        HalfPrecision()(model)
