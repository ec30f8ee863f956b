"""For every rule of ``lint`` a graph that breaks it and a twin that does not."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx

from tests.test_export.encoder_graph import encoder_graph
from tests.test_export.lint_graphs import (
    attention,
    biased,
    cast,
    computed,
    embedded,
    filled_scores,
    fixed,
    half_scale,
    integer,
    linear,
    masked,
    normalized,
    partnered,
    product,
    torch_linear,
    unfolded,
    unsigned,
    weighted,
    widened,
)

Graph = Callable[[], onnx.ModelProto]


@dataclass(frozen=True)
class Case:
    """A graph that breaks one rule, what must be found in it, and its sound twin."""

    rule: str
    severity: str
    node: str
    says: str
    broken: Graph
    sound: Graph
    target: str = "tensorrt"
    beside: tuple[str, ...] = ()
    """Other rules that both graphs break, and must."""
    flags: str = "avx2 avx512_vnni"
    """What the CPU has that the graphs are looked at on."""

    @property
    def id(self) -> str:
        return f"{self.rule}-{self.says[:20]}-{self.target}"


def scales(*values: float, dtype: type = np.float16) -> np.ndarray:
    """64 scales, these and then 0.01."""
    return np.array([*values, *[0.01] * (64 - len(values))], dtype)


FP32 = partial(linear, scale=np.float32(0.05), weight_scale=np.float32(0.01))

OPSETS = [
    Case(
        "opset-per-axis", "error", "w/DQ", "has 64 scales, but the graph's opset 12 knows one scale a tensor",
        partial(FP32, weight_scale=scales(dtype=np.float32), opset=12),
        partial(FP32, weight_scale=scales(dtype=np.float32), opset=13), "onnxruntime",
    ),
    Case(
        "opset-half-scale", "error", "x/Q", "the scale is FLOAT16, but the graph's opset 18 knows FLOAT scales only",
        partial(linear, opset=18), partial(linear, opset=19),
    ),
    Case(
        "opset-layer-norm", "error", "norm", "LayerNormalization is no operator of the graph's opset 16",
        partial(normalized, spelled="no", opset=16), partial(normalized, spelled="no", opset=17),
    ),
]  # fmt: skip

ZERO_POINTS = [
    Case(
        "zero-point-not-constant", "error", "x/Q", "'zero/Cast:0' is computed while the graph runs, but TensorRT needs",
        partial(computed, "zero"), partial(computed, "cast"),
    ),
    Case(
        "zero-point-not-zero", "error", "x/Q", "is int8 3, but TensorRT quantizes symmetrically and refuses any but 0",
        partial(linear, zero=np.int8(3)), linear,
    ),
    Case(
        "zero-point-not-zero", "error", "x/Q", "the zero point is uint8 128, but TensorRT for RTX quantizes symmetric",
        partial(linear, zero=np.uint8(128)), linear, "rtx",
    ),
    Case(
        "zero-point-not-zero", "error", "x/Q", "the zero point is uint8, but TensorRT builds it as int8 without a word",
        partial(linear, zero=np.uint8(0)), linear,
    ),
    Case(
        "zero-point-not-zero", "warning", "x/Q", "is uint8 113: ONNX Runtime runs it, but TensorRT refuses any but 0",
        partial(linear, zero=np.uint8(113)), partial(linear, zero=np.uint8(128)), "onnxruntime",
    ),
    Case(
        "zero-point-not-zero", "warning", "x/Q", "the zero point is int8 3: OpenVINO runs it, but TensorRT refuses any",
        partial(linear, zero=np.int8(3)), partial(linear, zero=np.uint8(128)), "openvino",
    ),
    Case(
        "zero-point-size", "error", "x/Q", "there are 1 scales but 64 zero points, and TensorRT refuses sizes that dif",
        partial(linear, zero=np.zeros(64, np.int8)), linear,
    ),
    Case(
        "zero-point-missing", "warning", "x/Q", "no zero point, which ONNX Runtime reads as uint8 and TensorRT as int8",
        partial(linear, zero=None), linear,
    ),
]  # fmt: skip

SCALES = [
    Case(
        "scale-not-constant", "error", "x/Q", "the scale 'largest:0' is computed while the graph runs, but TensorRT",
        partial(computed, "scale"), partial(computed, "cast"),
    ),
    *(
        Case(
            "scale-not-positive", "error", "x/Q", f"the scale is {shown}: TensorRT divides by it, so it must be pos",
            partial(linear, scale=np.float16(value)), linear,
        )
        for value, shown in [(0.0, "0"), (-0.5, "-0.5"), (np.inf, "inf"), (np.nan, "nan")]
    ),
    Case(
        "scale-not-positive", "error", "w/DQ", "the scale is 0 in channel 1 (2 of 64 such): TensorRT divides by it",
        partial(linear, weight_scale=scales(0.1, 0, 0)), partial(linear, weight_scale=scales(0.1, 0.2, 0.3)),
    ),
    Case(
        "scale-subnormal", "warning", "x/Q", "the FP16 scale is 6.098e-05, below FP16's smallest normal number 6.104e",
        partial(linear, scale=np.float16(6.1e-5)), partial(linear, scale=np.float16(2**-14)),
    ),
    Case(
        "scale-type", "error", "Q", "a FLOAT tensor has a FLOAT16 scale, but TensorRT wants both of one type",
        partial(half_scale, half=True), partial(half_scale, half=False),
    ),
    Case(
        "scale-type", "error", "x/Q", "a FLOAT16 tensor has a FLOAT scale, but ONNX Runtime wants both of one type",
        partial(linear, scale=np.float32(0.05)), linear, "onnxruntime",
    ),
    Case(
        "per-channel-activation", "error", "x/Q", "the activation 'x' has 64 scales, but TensorRT takes one for an act",
        partial(linear, scale=scales(), zero=np.zeros(64, np.int8)),
        partial(linear, scale=scales()[:1], zero=np.zeros(1, np.int8)),
    ),
    Case(
        "per-channel-activation", "error", "x/Q", "the activation 'x' has 64 scales, but OpenVINO takes one for an act",
        partial(linear, scale=scales(), zero=np.zeros(64, np.int8)), linear, "openvino",
    ),
]  # fmt: skip

OPERATORS = [
    Case(
        "int32-dequantize", "error", "bias/DQ", "'b' is dequantized from int32 (a bias), which TensorRT refuses; keep",
        partial(biased, int32=True), partial(biased, int32=False),
    ),
    *(
        Case(
            "integer-operator", "error", "integer", f"TensorRT has no {name}: it makes INT8 kernels only from Quantize",
            partial(integer, name), linear,
        )
        for name in (
            "DynamicQuantizeLinear", "QLinearMatMul", "MatMulInteger", "ConvInteger", "MatMulIntegerToFloat"
        )
    ),
    *(
        Case(
            "float-integer-product", "warning", "integer", f"OpenVINO computes {name} in FP32: it makes INT8 kernels",
            partial(integer, name), FP32, "openvino",
        )
        for name in ("MatMulInteger", "ConvInteger")
    ),
    *(
        Case(
            "layer-norm", "error", "divide", "'square' squares in FLOAT16, where FP16 overflows from 256 on; export it",
            partial(normalized, spelled=spelled), partial(normalized, spelled=sound),
        )
        for spelled, sound in (("pow", "no"), ("mul", "rms"))
    ),
    Case(
        "layer-norm", "warning", "divide", "spelled out as ReduceMean, Pow, Sqrt and Div: TensorRT fuses the one opera",
        partial(normalized, spelled="pow", kind="float32"), partial(normalized, spelled="no", kind="float32"),
    ),
    Case(
        "cast-sandwich", "warning", "x/Q", "'between' casts between QuantizeLinear and DequantizeLinear: TensorRT make",
        partial(cast, "inside"), partial(cast, "none"),
    ),
    Case(
        "cast-sandwich", "warning", "x/Q", "the pair stands between two casts (half to float before it, 'widen', and b",
        partial(cast, "around"), partial(cast, "weight"),
    ),
    *(
        Case(
            "leftover-cast", "warning", "widen", f"cast from half precision to FP32 is left, which {wrong}: TensorRT",
            partial(widened, what, cast=True), partial(widened, what, cast=False),
        )
        for what, wrong in (
            ("product", "runs 'scores' in FP32"), ("softmax", "ends at 'narrow' again"),
            ("nothing", "ends at 'narrow' again"),
        )
    ),
]  # fmt: skip

PRODUCTS = [
    *(
        Case(
            "missing-partner", "warning", "product", f"one operand of {operation} is dequantized, the {left} '",
            partial(partnered, left, operation=operation), partial(partnered, sound, operation=operation),
        )
        for operation in ("MatMul", "Gemm", "Conv")
        for left, sound in (("weight", "neither"), ("activation", "activation and weight"))
    ),
    Case(
        "per-channel-half-scale", "error", "product", "64 FP16 scales: TensorRT for RTX writes the product before it i",
        partial(linear, weight_scale=scales()), partial(cast, "weight"), "rtx",
    ),
    Case(
        "per-channel-half-scale", "error", "product", "64 FP16 scales: TensorRT for RTX writes the product before it i",
        partial(linear, weight_scale=scales()), linear, "rtx",
    ),
    *(
        Case(
            "per-channel-half-scale", "error", "product", "weights per tensor (qdq calibrate --target rtx), or keep",
            partial(torch_linear, scales(), operation=operation),
            partial(torch_linear, scales()[0], operation=operation), "rtx", beside=("unfolded-weight",),
        )
        for operation in ("MatMul", "Gemm")
    ),
    Case(
        "fixed-shape-bias", "warning", "product", "ONNX Runtime makes a Gemm of both before it looks for INT8",
        partial(fixed, axes=1), partial(fixed, axes=3), "onnxruntime",
    ),
    Case(
        "saturating-sums", "warning", "product", "1 products have weights beyond level 64, and this CPU has AVX2 witho",
        partial(fixed, axes=3), partial(fixed, axes=3, largest=63), "onnxruntime", flags="avx2",
    ),
    Case(
        "saturating-sums", "warning", "product", "in 16 bits, and what is larger is cut off; calibrate with --set wei",
        partial(fixed, axes=1), partial(fixed, axes=1, largest=64), "openvino", flags="avx2 avx512f",
    ),
    Case(
        "saturating-attention", "warning", "encoder/0/scores", "2 products are of two quantized activations, and this",
        partial(encoder_graph, layers=1), partial(encoder_graph, layers=1, quantized=""), "openvino",
        beside=("saturating-sums",), flags="avx2",
    ),
    Case(
        "float32-graph", "warning", "first", "every product of the graph (2) is FP32, and TensorRT is strongly typed",
        partial(product, "float32"), partial(product, "float16"),
    ),
    Case(
        "float32-weight", "error", "product", "'w' stays FP32 (16.38 KB) in a graph of FP16 and meets an FP16 operand",
        partial(weighted, stored="float32"), partial(weighted, stored="float16"),
    ),
    *(
        Case(
            "float32-weight", "warning", "product", "'w' stays FP32 (16.38 KB) in a graph of FP16: TensorRT is strong",
            partial(weighted, stored="float32", cast=where), partial(weighted, stored="float16", cast="none"),
        )
        for where in ("weight", "activation")
    ),
    Case(
        "float32-weight", "warning", "words/Gather", "'words' stays FP32 (12.80 KB) in a graph of FP16: TensorRT is",
        partial(embedded, "float32"), partial(embedded, "float16"),
    ),
    Case(
        "unfolded-weight", "warning", "w/Q", "'floats' is stored as FLOAT16 and quantized in the graph: 8.19 KB in the",
        partial(unfolded, folded=False), partial(unfolded, folded=True),
    ),
]  # fmt: skip

ATTENTION = [
    *(
        Case(
            "mask-constant", severity, node, text, partial(masked, number, how=how, kind=kind),
            partial(masked, -10000.0, how=how, kind=kind),
        )
        for how, node in (("mul", "mask/Mul"), ("where", "mask/Where"), ("full", "mask/Full"))
        for severity, kind, number, text in (
            ("error", "float16", -65504.0, "the mask before '0/Softmax' holds -65504, which ends as -inf in half"),
            ("error", "bfloat16", -1e38, "the mask before '0/Softmax' holds -9.9692e+37, which ends as -inf in half"),
            ("warning", "float32", float(np.finfo(np.float32).min), "holds -3.4028e+38, beyond FP16's 65504: it bec"),
        )
    ),
    Case(
        "mask-constant", "error", "Where", "the mask before 'Softmax' holds -inf, which ends as -inf in half precision",
        partial(filled_scores, -np.inf), partial(filled_scores, -10000.0),
    ),
    *(
        Case(
            "partial-attention", "warning", "encoder/0/scores", text, partial(encoder_graph, layers=1, quantized=some),
            partial(encoder_graph, layers=1, quantized=sound),
        )
        for some, sound, text in (
            ("qk", "qkvp", "attention has 2 of its four operands (q, k, probs, v) quantized, not 'encoder/0/softmax:0"),
            ("qkv", "", "attention has 3 of its four operands (q, k, probs, v) quantized, not 'encoder/0/softmax:0"),
            ("q", "", "attention has 1 of its four operands (q, k, probs, v) quantized, not 'encoder/0/k/Transpose:0'"),
        )
    ),
    Case(
        "partial-attention", "warning", "encoder/0/scores", "OpenVINO computes a product of it in float; quantize all",
        partial(encoder_graph, layers=1, quantized="qkv"), partial(encoder_graph, layers=1), "openvino",
    ),
    Case(
        "unsigned-attention", "warning", "encoder/0/scores", "OpenVINO computes it in INT8 with signed operands only",
        unsigned, partial(encoder_graph, layers=1), "openvino",
    ),
    *(
        Case(
            "attention-scale", "warning", "scale", "attention is scaled after its first product 'scores': TensorRT rec",
            partial(attention, scaled), partial(attention, "before"),
        )
        for scaled in ("after", "computed", "cast")
    ),
]  # fmt: skip

AXES = [
    Case(
        "unnamed-axis", "warning", "x", "the input 'x' has dynamic axes without a name (0, 1): TensorRT cannot know",
        partial(linear, rows=(None, None)), partial(linear, rows=("batch", 16)),
    ),
    Case(
        "unnamed-axis", "warning", "x", "the input 'x' has dynamic axes without a name (0): ONNX Runtime cannot know",
        partial(linear, rows=(-1, 16)), partial(linear, rows=(8, 16)), "onnxruntime",
    ),
]  # fmt: skip

CASES = [*OPSETS, *ZERO_POINTS, *SCALES, *OPERATORS, *PRODUCTS, *ATTENTION, *AXES]
