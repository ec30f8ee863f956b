"""HalfPrecision: FP16 all through, FP32 answers, and a refusal where a number would not survive."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes.common import ShapeInferencePass

from export.audit.build_audit import audit_engine
from export.engine_spec import ShapeRange
from export.exported import Lowering, lower_graph
from export.passes.bound_mask import BoundMask
from export.passes.fold_weights import FoldWeights
from export.passes.half_precision import HalfPrecision
from export.passes.qdq_nodes import DEQUANTIZE, QUANTIZE, constant, nodes_of, operand
from export.passes.strip_quantization import StripQuantization
from export.targets import find_target
from qat.families import in_encoder_layer
from tests.test_export.tiny_models import SHAPES, Traced, make_batch, row_errors, run_graph
from tests.tolerances import FLOAT_BF16, FLOAT_FP16

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


def test_a_node_that_is_kept_computes_in_fp32_between_casts() -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    agraph (int64[n, 2] x) => (float[n, 2] y)
    <float[2] g = {1.0, 2.0}, float[2] b = {0.25, 0.1}, float large = {300.0}> {
        a = Cast <to: int = 1> (x)
        [square] c = Mul(a, a)
        [more] d = Mul(c, large)
        [norm] e = LayerNormalization <axis: int = -1, epsilon: float = 1e-5> (d, g, b)
        [out] y = Mul(e, large)
    }
    """
    feed = {"x": np.array([[30, -70], [90, 3]])}
    model = ir.from_onnx_text(text)
    ShapeInferencePass()(model)
    exact = run_graph(model, feed)
    plain, kept = model.clone(), model.clone()
    HalfPrecision()(plain)
    HalfPrecision(keep=("more", "norm"))(kept)
    with np.errstate(all="ignore"):
        overflowed = run_reference(plain, feed)  # ONNX Runtime computes FP16 in FP32
    assert not np.isfinite(overflowed).all()
    assert row_errors(run_graph(kept, feed), exact).max() <= FLOAT_FP16.value
    casts = [(node.name, node.attributes["to"].as_int()) for node in nodes_of(kept, "Cast")][1:]
    assert casts == [("square/Cast_fp32", 1), ("norm/Cast_fp16", 10), ("y/Cast", 1)]
    types = {name: value.dtype for name, value in kept.graph.initializers.items()}
    assert types == {
        "g": ir.DataType.FLOAT,
        "b": ir.DataType.FLOAT,
        "large": ir.DataType.FLOAT,
        "large_fp16": ir.DataType.FLOAT16,
    }


def run_reference(model: ir.Model, feed: dict[str, NDArray[np.int64]]) -> NDArray[np.float32]:
    """The first output as ONNX's own reference computes it, every operator in its own type."""
    answers = ReferenceEvaluator(ir.to_proto(model)).run(None, dict(feed))
    return np.asarray(next(iter(answers)))


def lower_bf16(graph: ir.Model) -> ir.Model:
    return lower_graph(graph, Lowering(find_target("rtx"), "bf16"))


def test_in_bf16_int8_attention_alone_is_fp16(traced: Traced) -> None:
    model = lower_bf16(traced.graph)
    types = {node: node.outputs[0].dtype for node in model.graph}
    inside = {node for node, dtype in types.items() if dtype == ir.DataType.FLOAT16 and node.op_type != "Cast"}
    softmaxes = [node.name for node in nodes_of(model, "Softmax") if "/span/" not in (node.name or "")]
    assert [node.name for node in model.graph if node in inside and node.op_type == "Softmax"] == softmaxes
    assert sum(node.op_type == "MatMul" for node in inside) == 2 * traced.case.layers
    assert {node.op_type for node in inside} <= {
        *("Softmax", "MatMul", "Add", "Reshape", "Transpose", "Squeeze", "Slice", "Split", "Concat", DEQUANTIZE)
    }
    into = [node for node in nodes_of(model, "Cast") if node.outputs[0].dtype == ir.DataType.FLOAT16]
    out_of = [node for node in nodes_of(model, "Cast") if operand(node, 0).dtype == ir.DataType.FLOAT16]
    joined = traced.case.layers if traced.case.family == "convbert" else 0  # the convolution's answer joins
    assert (len(into), len(out_of)) == (1 + joined, joined)
    assert sum(node.op_type == "LayerNormalization" and node in inside for node in model.graph) == 0


def test_in_bf16_every_scale_has_the_type_of_its_tensor(traced: Traced) -> None:
    model = lower_bf16(traced.graph)
    for node in nodes_of(model, QUANTIZE, DEQUANTIZE):
        tensor = operand(node, 0) if node.op_type == QUANTIZE else node.outputs[0]
        assert operand(node, 1).dtype == tensor.dtype
        assert tensor.dtype in (ir.DataType.BFLOAT16, ir.DataType.FLOAT16)


def test_the_engine_in_bf16_runs_what_the_one_in_fp16_runs(traced: Traced, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the builder of the tests: pip install 'qdq[rtx]'")
    audits = {}
    for precision in ("fp16", "bf16"):
        path = tmp_path / f"{precision}.onnx"
        ir.save(lower_graph(traced.graph, Lowering(find_target("rtx"), precision)), path)
        audits[precision] = audit_engine(
            path, hardware=("sm_89",), shapes=ShapeRange.fixed(8, 32), fixed=(8, 32), in_encoder=in_encoder_layer
        )
    half, brain = audits["fp16"], audits["bf16"]
    assert brain.as_planned
    assert (brain.int8_gemms, brain.int8_attentions) == (half.int8_gemms, half.int8_attentions)
    assert brain.int8_mac_share == half.int8_mac_share == 1.0
    assert brain.activation_mb is not None
    assert half.activation_mb is not None
    assert brain.activation_mb <= half.activation_mb


def test_a_scale_that_bf16_would_change_is_refused() -> None:
    with pytest.raises(ir.passes.PreconditionError) as caught:
        HalfPrecision(ir.DataType.BFLOAT16)(ir.from_onnx_text(TEXT.replace("float s = {0.5}", "float s = {0.1}")))
    assert str(caught.value) == (
        "the scale of 'q' is no BF16 value and would change: export with --precision fp32, or calibrate again"
    )


def test_bf16_holds_what_fp16_does_not() -> None:
    model = ir.from_onnx_text(TEXT.replace("{1.0, 2.0}", "{1.0, 1e30}"))
    assert HalfPrecision(ir.DataType.BFLOAT16)(model).modified
    assert model.graph.initializers["g"].dtype == ir.DataType.BFLOAT16


def test_in_bf16_the_reference_computes_within_its_roundings() -> None:
    model = ir.from_onnx_text(TEXT)
    feed = {"x": np.array([[3, -70]])}
    exact = run_graph(model, feed)
    HalfPrecision(ir.DataType.BFLOAT16)(model)
    found = run_reference(model, feed)
    assert found.dtype == np.float32
    assert row_errors(found, exact).max() <= FLOAT_BF16.value
