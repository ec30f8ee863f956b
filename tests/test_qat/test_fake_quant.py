"""The operator against three independent implementations, its gradient, its laws and its scale."""

from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from qat.fake_quant import fake_quantize, quantize_dequantize, scale_from_amax
from tests import oracles
from tests.oracles import Floats

SMALLEST, LARGEST = 2.0**-14, 65504.0
"""Of FP16: the smallest normal number and the largest."""

ANY_FLOAT = st.floats(width=32, allow_nan=False, allow_infinity=False)
FP16_SCALES = st.floats(SMALLEST, LARGEST, width=16)
FP32_SCALES = st.floats(float(np.float32(1e-6)), float(np.float32(1e6)), width=32)
HALF_STEPS = st.integers(-300, 300).map(lambda steps: steps / 2)
"""In steps: ties, whole numbers, and both sides of the bounds. A product with an FP16 scale is exact in FP32."""


@st.composite
def tensors(draw: st.DrawFn, scales: st.SearchStrategy[float] = FP16_SCALES) -> tuple[Floats, Floats]:
    """A tensor of any floats and of ties of its scale, and the scale."""
    scale = draw(scales)
    ties = HALF_STEPS.map(lambda steps: float(np.float32(steps * scale)))
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 8)))
    return draw(arrays(np.float32, shape, elements=st.one_of(ties, ANY_FLOAT))), np.array(scale, np.float32)


@st.composite
def channels(draw: st.DrawFn) -> tuple[Floats, Floats, int]:
    """A tensor of three dimensions, its channel axis and one scale a channel."""
    shape = draw(st.tuples(*[st.integers(1, 4)] * 3))
    axis = draw(st.integers(0, 2))
    scale = draw(arrays(np.float32, shape[axis], elements=st.floats(SMALLEST, 1024.0, width=16)))
    steps = draw(arrays(np.float32, shape, elements=HALF_STEPS.map(float)))
    return steps * np.expand_dims(scale, [i for i in range(3) if i != axis]), scale, axis


def quantize(x: Floats, scale: Floats, axis: int | None = None) -> Floats:
    result: Floats = fake_quantize(torch.from_numpy(x), torch.from_numpy(scale), axis).numpy()
    return result


@cache
def onnx_pair(axis: int | None) -> onnx.ModelProto:
    """QuantizeLinear and DequantizeLinear with an INT8 zero point 0, as ONNX writes them."""
    channel: dict[str, Any] = {} if axis is None else {"axis": axis}
    shape = [] if axis is None else ["channels"]
    zeros = [] if axis is None else [helper.make_node("Shape", ["scale"], ["length"])]
    filled = helper.make_tensor("value", TensorProto.INT8, [1], [0])
    fill = helper.make_node("ConstantOfShape", ["length"], ["zero"], value=filled)
    scalar = helper.make_node("Constant", [], ["zero"], value=helper.make_tensor("z", TensorProto.INT8, [], [0]))
    nodes = [
        *([scalar] if axis is None else [*zeros, fill]),
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], **channel),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], **channel),
    ]
    dims = ["a", "b"] if axis is None else ["a", "b", "c"]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, dims),
        helper.make_tensor_value_info("scale", TensorProto.FLOAT, shape),
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, dims)
    graph = helper.make_graph(nodes, "pair", inputs, [output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


@cache
def onnxruntime_session(axis: int | None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(onnx_pair(axis).SerializeToString(), options, providers=["CPUExecutionProvider"])


def other_answers(x: Floats, scale: Floats, axis: int | None) -> dict[str, Floats]:
    # onnx.reference casts its quotients to 32-bit integers: what saturates anyway must fit one first
    most = np.float32(1e6) * scale.max()
    reference: Any = ReferenceEvaluator(onnx_pair(axis)).run(None, {"x": np.clip(x, -most, most), "scale": scale})
    return {
        "NumPy": oracles.fake_quantize(x, scale, axis),
        "ONNX Runtime": onnxruntime_session(axis).run(None, {"x": x, "scale": scale})[0],
        "onnx.reference": np.asarray(reference[0]),
    }


@given(case=tensors())
@example(case=(np.array([[3.4e38, -3.4e38, 1e-45, -1e-45, 0.0]], np.float32), np.array(SMALLEST, np.float32)))
@example(case=(np.array([[0.5, 1.5, 2.5, -0.5, 126.5, 127.5, -128.5, -129]], np.float32), np.array(1, np.float32)))
def test_one_range_is_bit_exact(case: tuple[Floats, Floats]) -> None:
    for name, answer in other_answers(*case, None).items():
        np.testing.assert_array_equal(quantize(*case), answer, err_msg=name, strict=True)


@given(case=tensors(FP32_SCALES))
def test_one_range_with_an_fp32_scale_is_bit_exact(case: tuple[Floats, Floats]) -> None:
    for name, answer in other_answers(*case, None).items():
        np.testing.assert_array_equal(quantize(*case), answer, err_msg=name, strict=True)


@given(case=channels())
def test_channels_are_bit_exact(case: tuple[Floats, Floats, int]) -> None:
    for name, answer in other_answers(*case).items():
        np.testing.assert_array_equal(quantize(*case), answer, err_msg=name, strict=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@given(case=tensors(st.floats(SMALLEST, 256.0, width=16)))
def test_half_precision_is_computed_in_fp32(dtype: torch.dtype, case: tuple[Floats, Floats]) -> None:
    largest = torch.finfo(dtype).max
    x = torch.from_numpy(case[0]).clamp(-largest, largest).to(dtype)
    expected = torch.from_numpy(oracles.fake_quantize(x.float().numpy(), case[1])).to(dtype)
    answer = fake_quantize(x, torch.from_numpy(case[1]), None)
    assert answer.dtype == dtype
    assert torch.equal(answer, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@given(case=tensors(st.floats(SMALLEST, 256.0, width=16)))
def test_the_gradient_is_one_inside_and_zero_outside(dtype: torch.dtype, case: tuple[Floats, Floats]) -> None:
    largest = torch.finfo(dtype).max
    x = torch.from_numpy(case[0]).clamp(-largest, largest).to(dtype).requires_grad_()
    inside = oracles.is_inside(x.detach().float().numpy(), case[1])
    upstream = torch.arange(1, x.numel() + 1, dtype=dtype).reshape(x.shape)
    fake_quantize(x, torch.from_numpy(case[1]), None).backward(upstream)
    assert x.grad is not None
    assert torch.equal(x.grad, upstream * torch.from_numpy(inside))


@given(case=channels())
def test_the_gradient_of_channels_likewise(case: tuple[Floats, Floats, int]) -> None:
    x = torch.from_numpy(case[0]).requires_grad_()
    fake_quantize(x, torch.from_numpy(case[1]), case[2]).sum().backward()
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), oracles.is_inside(*case).astype(np.float32))


@given(case=tensors())
def test_it_is_idempotent(case: tuple[Floats, Floats]) -> None:
    once = quantize(*case)
    np.testing.assert_array_equal(quantize(once, case[1]), once)


@given(case=tensors())
def test_it_is_monotone(case: tuple[Floats, Floats]) -> None:
    ordered = np.sort(case[0], axis=None)
    assert (np.diff(quantize(ordered, case[1])) >= 0).all()


@given(case=tensors())
def test_the_signs_are_alike_but_for_the_lowest_step(case: tuple[Floats, Floats]) -> None:
    x, scale = case
    above = np.maximum(quantize(-x, scale), -127 * scale)
    np.testing.assert_array_equal(np.minimum(-above, 127 * scale), np.maximum(quantize(x, scale), -127 * scale))


@given(case=tensors())
def test_the_answer_is_one_of_256_steps(case: tuple[Floats, Floats]) -> None:
    x, scale = case
    grid = np.arange(-128, 128, dtype=np.float32) * scale
    assert np.isin(quantize(x, scale), grid).all()


@given(amax=arrays(np.float32, 5, elements=st.floats(0, float(np.float32(3e38)), width=32)))
@example(amax=np.array([0, 127 * SMALLEST, 127 * LARGEST, 1e38, 1e-45], np.float32))
def test_scales_are_fp16_numbers(amax: Floats) -> None:
    scale = scale_from_amax(torch.from_numpy(amax), "float16").numpy()
    assert scale.dtype == np.float32
    np.testing.assert_array_equal(scale, oracles.scale_of(amax), strict=True)
    np.testing.assert_array_equal(scale, scale.astype(np.float16))
    assert ((scale >= SMALLEST) & (scale <= LARGEST)).all()


@given(amax=arrays(np.float32, 5, elements=st.floats(127 * SMALLEST, float(np.float32(3e38)), width=32)))
def test_fp32_scales_are_kept(amax: Floats) -> None:
    np.testing.assert_array_equal(scale_from_amax(torch.from_numpy(amax), "float32").numpy(), amax / np.float32(127))


def test_fp32_scales_have_a_floor_too() -> None:
    assert scale_from_amax(torch.tensor([0.0]), "float32").item() == SMALLEST


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("axis", [None, 1])
def test_the_registration_is_sound(dtype: torch.dtype, requires_grad: bool, axis: int | None) -> None:
    x = torch.randn(3, 4, 2).to(dtype).requires_grad_(requires_grad)
    scale = torch.tensor(0.1) if axis is None else torch.rand(4) + 0.1
    checks = torch.library.opcheck(quantize_dequantize, (x, scale, axis))
    assert set(checks.values()) == {"SUCCESS"}


def test_the_layout_of_the_input_is_kept() -> None:
    x = torch.randn(3, 4).t()
    assert fake_quantize(x, torch.tensor(0.1), None).stride() == x.stride()
