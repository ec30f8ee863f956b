"""Small graphs for the rules of ``lint``: as they are, clean; with one argument changed, breaking one rule."""

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import ArrayLike
from onnx import TensorProto, helper

from export.passes.unsigned_activations import UnsignedActivations
from tests.test_export.encoder_graph import GraphWriter, encoder_graph

ZERO = np.int8(0)
SCALE, WEIGHT_SCALE = np.float16(0.05), np.float16(0.01)
ROWS = ("batch", "sequence")
TYPES = {"float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT, "bfloat16": TensorProto.BFLOAT16}
DTYPES = {"float16": np.float16, "float32": np.float32, "bfloat16": ml_dtypes.bfloat16}


def finish(
    w: GraphWriter,
    output: str,
    *,
    kind: str = "float16",
    opset: int = 20,
    rows: tuple[str | int | None, ...] = ROWS,
    extra: dict[str, int] | None = None,
) -> onnx.ModelProto:
    """The model of one input ``x`` of ``rows`` + (64,) and one output of unknown shape."""
    graph = helper.make_graph(
        w.nodes,
        "graph",
        [helper.make_tensor_value_info("x", TYPES[kind], [*rows, 64])],
        [helper.make_tensor_value_info(output, TYPES[kind], None)],
        list(w.weights.values()),
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in {"": opset, **(extra or {})}.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def pair(w: GraphWriter, x: str, name: str, scale: str, zero: str | None, **attributes: int) -> str:
    """A QuantizeLinear and a DequantizeLinear of the same scale and zero point."""
    facts = [scale] if zero is None else [scale, zero]
    quantized = w.node("QuantizeLinear", [x, *facts], f"{name}/Q", **attributes)
    return w.node("DequantizeLinear", [quantized, *facts], f"{name}/DQ", **attributes)


def weight(
    w: GraphWriter, scale: ArrayLike = WEIGHT_SCALE, shape: tuple[int, int] = (64, 64), *, largest: int = 100
) -> str:
    """An INT8 weight behind its DequantizeLinear."""
    levels = w.constant("w", w.rng.integers(-largest, largest, shape).astype(np.int8))
    facts = [w.constant("w_scale", scale), w.constant("w_zero", np.zeros(np.shape(scale), np.int8))]
    return w.node("DequantizeLinear", [levels, *facts], "w/DQ", **({"axis": 1} if np.ndim(scale) else {}))


def linear(
    *,
    scale: ArrayLike = SCALE,
    zero: ArrayLike | None = ZERO,
    weight_scale: ArrayLike = WEIGHT_SCALE,
    opset: int = 20,
    rows: tuple[str | int | None, ...] = ROWS,
) -> onnx.ModelProto:
    """A quantized product; the input has the type of the scale of the weight."""
    w = GraphWriter()
    middle = None if zero is None else w.constant("zero", zero)
    axis = {"axis": 2} if np.ndim(scale) else {}
    x = pair(w, "x", "x", w.constant("scale", scale), middle, **axis)
    output = w.node("MatMul", [x, weight(w, weight_scale)], "product")
    return finish(w, output, kind=np.asarray(weight_scale).dtype.name, opset=opset, rows=rows)


def computed(what: str) -> onnx.ModelProto:
    """A product whose scale or zero point is computed: from the input, or (``cast``) from a constant."""
    w = GraphWriter()
    scale, zero = w.constant("scale", SCALE), w.constant("zero", ZERO)
    if what == "cast":
        scale = w.node("Cast", [w.constant("wide", np.float32(0.05))], "scale/Cast", to=TensorProto.FLOAT16)
        zero = w.node("Cast", [w.constant("long", np.int64(0))], "zero/Cast", to=TensorProto.INT8)
    else:
        largest = w.node("ReduceMax", ["x"], "largest", keepdims=0)
        scale = largest if what == "scale" else scale
        zero = w.node("Cast", [largest], "zero/Cast", to=TensorProto.INT8) if what == "zero" else zero
    return finish(w, w.node("MatMul", [pair(w, "x", "x", scale, zero), weight(w)], "product"))


def half_scale(*, half: bool) -> onnx.ModelProto:
    """An FP32 tensor quantized with a scale of FP16 or FP32, and cast to FP16."""
    w = GraphWriter()
    wide = w.node("Cast", ["x"], "wide", to=TensorProto.FLOAT)
    quantized = w.node(
        "QuantizeLinear",
        [wide, w.constant("q_scale", SCALE if half else np.float32(SCALE)), w.constant("zero", ZERO)],
        "Q",
    )
    x = w.node("DequantizeLinear", [quantized, w.constant("scale", SCALE), "zero"], "DQ")
    return finish(w, w.node("MatMul", [x, weight(w)], "product"))


def biased(*, int32: bool) -> onnx.ModelProto:
    """A product with a bias, stored as INT32 or as it should be."""
    w = GraphWriter()
    x = pair(w, "x", "x", w.constant("scale", SCALE), w.constant("zero", ZERO))
    if int32:
        levels = w.constant("b", np.arange(64, dtype=np.int32))
        bias = w.node("DequantizeLinear", [levels, w.constant("b_scale", np.float16(0.01))], "bias/DQ")
    else:
        bias = w.constant("b", np.arange(64).astype(np.float16))
    return finish(w, w.node("Add", [w.node("MatMul", [x, weight(w)], "product"), bias], "bias"))


def fixed(*, axes: int, largest: int = 100) -> onnx.ModelProto:
    """A quantized product of fixed shape in FP32 with a bias of so many axes."""
    w = GraphWriter()
    x = pair(w, "x", "x", w.constant("scale", np.float32(SCALE)), w.constant("zero", ZERO))
    bias = w.constant("b", np.ones((64,) if axes == 1 else (1, 1, 64), np.float32))
    product = w.node("MatMul", [x, weight(w, np.float32(WEIGHT_SCALE), largest=largest)], "product")
    return finish(w, w.node("Add", [product, bias], "bias"), kind="float32", rows=(8, 16))


def integer(operation: str) -> onnx.ModelProto:
    """A graph around one operator that TensorRT does not have."""
    w = GraphWriter()
    facts = [w.constant("scale", np.float32(0.05)), w.constant("zero", ZERO)]
    levels = w.constant("w", w.rng.integers(-100, 100, (64, 64)).astype(np.int8))
    if operation == "DynamicQuantizeLinear":
        w.nodes.append(helper.make_node(operation, ["x"], ["q", "q_scale", "q_zero"], name="integer"))
        return finish(w, w.node("Cast", ["q"], "out", to=TensorProto.FLOAT), kind="float32")
    x = w.node("QuantizeLinear", ["x", *facts], "x/Q")
    if operation == "QLinearMatMul":
        x = w.node(operation, [x, *facts, levels, *facts, *facts], "integer")
        return finish(w, w.node("DequantizeLinear", [x, *facts], "out"), kind="float32")
    if operation == "ConvInteger":
        x = w.node(operation, [x, w.constant("k", np.ones((8, 4, 3), np.int8))], "integer")
        return finish(w, w.node("Cast", [x], "out", to=TensorProto.FLOAT), kind="float32", rows=("batch", 4))
    domain = "" if operation == "MatMulInteger" else "com.microsoft"
    inputs = [x, levels] if domain == "" else [x, levels, facts[0], facts[0]]
    x = w.node(operation, inputs, "integer", domain=domain)
    output = x if domain else w.node("Cast", [x], "out", to=TensorProto.FLOAT)
    return finish(w, output, kind="float32", extra={"com.microsoft": 1})


def masked(
    number: float,
    *,
    how: str = "mul",
    kind: str = "float16",
    layers: int = 1,
) -> onnx.ModelProto:
    """Softmaxes over a tensor and one mask, which is made in one of the usual ways."""
    w, dtype = GraphWriter(), DTYPES[kind]
    padded = w.node("Equal", ["x", w.constant("none", np.array(0, dtype))], "mask/Equal")
    with np.errstate(over="ignore"):
        lowest = w.constant("lowest", np.array(number).astype(dtype))
    zero = w.constant("none", np.array(0, dtype))
    if how == "mul":
        mask = w.node("Mul", [w.node("Cast", [padded], "mask/Cast", to=TYPES[kind]), lowest], "mask/Mul")
    elif how == "where":
        mask = w.node("Where", [padded, lowest, zero], "mask/Where")
    else:
        shape = w.node("Shape", ["x"], "mask/Shape")
        value = onnx.numpy_helper.from_array(np.array([number], dtype))
        full = w.node("ConstantOfShape", [shape], "mask/Full", value=value)
        mask = w.node("Where", [padded, full, zero], "mask/Where")
    x = "x"
    for layer in range(layers):
        x = w.node(
            "Add", [x, w.node("Unsqueeze", [mask, w.constant("axes", np.array([0]))], f"{layer}/one")], f"{layer}/Add"
        )
        x = w.node("Softmax", [x], f"{layer}/Softmax", axis=-1)
        x = w.node("Squeeze", [x, "axes"], f"{layer}/Squeeze")
    return finish(w, x, kind=kind)


def filled_scores(number: float) -> onnx.ModelProto:
    """A softmax over scores whose masked places are overwritten, not added to."""
    w = GraphWriter()
    none = w.constant("none", np.float16(0))
    with np.errstate(over="ignore"):
        lowest = w.constant("lowest", np.array(number).astype(np.float16))
    scores = w.node("Where", [w.node("Equal", ["x", none], "Equal"), lowest, "x"], "Where")
    return finish(w, w.node("Softmax", [scores], "Softmax", axis=-1))


def normalized(*, spelled: str, kind: str = "float16", opset: int = 20) -> onnx.ModelProto:
    """A layer normalization: one operator, or its parts as the exporters of PyTorch and TensorFlow wrote them."""
    w, dtype = GraphWriter(), DTYPES[kind]
    scale, small = w.constant("ones", np.ones(64, dtype)), w.constant("small", np.array(1e-5, dtype))
    if spelled == "no":
        return finish(w, w.node("LayerNormalization", ["x", scale], "norm", axis=-1), kind=kind, opset=opset)
    mean = w.node("ReduceMean", ["x", w.constant("last", np.array([-1]))], "mean")
    centred = w.node("Sub", ["x", mean], "centred") if spelled != "rms" else "x"
    if spelled == "mul":
        square = w.node("Mul", [centred, centred], "square")
    else:
        square = w.node("Pow", [centred, w.constant("two", np.array(2, dtype))], "square")
    root = w.node("Sqrt", [w.node("Add", [w.node("ReduceMean", [square, "last"], "variance"), small], "sum")], "root")
    if spelled == "mul":
        y = w.node("Mul", [centred, w.node("Reciprocal", [root], "divide")], "scaled")
    else:
        y = w.node("Div", [centred, root], "divide")
    return finish(w, w.node("Mul", [y, scale], "out"), kind=kind, opset=opset)


def cast(where: str) -> onnx.ModelProto:
    """A quantized product with a cast inside the pair, two around it, or one around a weight, which is sound."""
    w = GraphWriter()
    facts = [w.constant("scale", np.float32(SCALE)), w.constant("zero", ZERO)]
    half = [w.constant("half", SCALE), "zero"]
    if where == "inside":
        q = w.node("Cast", [w.node("QuantizeLinear", ["x", *half], "x/Q")], "between", to=TensorProto.INT8)
        x = w.node("DequantizeLinear", [q, *half], "x/DQ")
    elif where == "around":
        wide = w.node("Cast", ["x"], "widen", to=TensorProto.FLOAT)
        x = w.node("Cast", [pair(w, wide, "x", facts[0], "zero")], "narrow", to=TensorProto.FLOAT16)
    else:
        x = pair(w, "x", "x", half[0], "zero")
    y = weight(w, np.full(64, 0.01, np.float32) if where == "weight" else WEIGHT_SCALE)
    y = w.node("Cast", [y], "w/Cast", to=TensorProto.FLOAT16) if where == "weight" else y
    return finish(w, w.node("MatMul", [x, y], "product"))


def partnered(left_float: str, *, operation: str = "MatMul") -> onnx.ModelProto:
    """A product with the activation, the weight, both or none left float."""
    w = GraphWriter()
    x = "x" if "activation" in left_float else pair(w, "x", "x", w.constant("scale", SCALE), w.constant("zero", ZERO))
    if "weight" in left_float:
        y = w.constant("w", w.rng.normal(size=(64, 64)).astype(np.float16))
    else:
        y = weight(w)
    if operation == "Conv":
        y = w.node("Unsqueeze", [y, w.constant("kernel", np.array([2]))], "w/Unsqueeze")
        return finish(w, w.node("Conv", [w.node("Transpose", [x], "turn", perm=[0, 2, 1]), y], "product"))
    if operation == "Gemm":
        return finish(w, w.node("Gemm", [x, y], "product", transB=1), rows=("batch",))
    return finish(w, w.node("MatMul", [x, w.node("Transpose", [y], "w/Transpose", perm=[1, 0])], "product"))


def torch_linear(weight_scale: ArrayLike, *, operation: str = "MatMul") -> onnx.ModelProto:
    """A quantized linear layer as other exporters write it: an FP16 weight, quantized in the graph, then turned."""
    w = GraphWriter()
    x = pair(w, "x", "x", w.constant("scale", SCALE), w.constant("zero", ZERO))
    zeros = w.constant("w_zero", np.zeros(np.shape(weight_scale), np.int8))
    floats = w.constant("floats", w.rng.normal(size=(64, 64)).astype(np.float16))
    y = pair(
        w, floats, "w", w.constant("w_scale", weight_scale), zeros, **({"axis": 0} if np.ndim(weight_scale) else {})
    )
    if operation == "Gemm":
        return finish(w, w.node("Gemm", [x, y], "product", transB=1), rows=("batch",))
    return finish(w, w.node("MatMul", [x, w.node("Transpose", [y], "w/Transpose", perm=[1, 0])], "product"))


def widened(what: str, *, cast: bool) -> onnx.ModelProto:
    """An FP16 product, then a product of activations, a softmax or a move, between casts to FP32 and back or not."""
    w = GraphWriter()
    x = w.node("MatMul", ["x", w.constant("w", np.ones((64, 64), np.float16))], "first")
    x = w.node("Cast", [x], "widen", to=TensorProto.FLOAT) if cast else x
    if what == "product":
        x = w.node("MatMul", [x, w.node("Transpose", [x], "turn", perm=[0, 2, 1])], "scores")
    elif what == "softmax":
        x = w.node("Softmax", [x], "probs", axis=-1)
    else:
        x = w.node("Transpose", [x], "turn", perm=[0, 2, 1])
    return finish(w, w.node("Cast", [x], "narrow", to=TensorProto.FLOAT16) if cast else x)


def attention(scaled: str) -> onnx.ModelProto:
    """A float attention that is scaled ``before`` its first product, or ``after`` it in one of three ways."""
    w = GraphWriter()
    root = w.constant("root", np.float16(8))
    q = w.node("Div", ["x", root], "q/Div") if scaled == "before" else "x"
    scores = w.node("MatMul", [q, w.node("Transpose", ["x"], "k", perm=[0, 2, 1])], "scores")
    if scaled == "after":
        scores = w.node("Div", [scores, root], "scale")
    elif scaled == "computed":
        length = w.node("Cast", [w.node("Size", ["x"], "size")], "length", to=TensorProto.FLOAT16)
        scores = w.node("Div", [scores, w.node("Sqrt", [length], "length/Sqrt")], "scale")
    elif scaled == "cast":
        wide = w.node("Cast", [scores], "widen", to=TensorProto.FLOAT)
        wide = w.node("Mul", [wide, w.constant("eighth", np.float32(0.125))], "scale")
        scores = w.node("Cast", [wide], "narrow", to=TensorProto.FLOAT16)
    probs = w.node("Softmax", [scores], "probs", axis=-1)
    return finish(w, w.node("MatMul", [probs, "x"], "context"))


def weighted(*, stored: str, cast: str = "none") -> onnx.ModelProto:
    """An FP16 product, then one whose weight is stored in another type, with casts to make it fit or without."""
    w = GraphWriter()
    first = w.node("MatMul", ["x", w.constant("first/w", np.ones((64, 64), np.float16))], "first")
    second = w.constant("w", np.ones((64, 64), DTYPES[stored]))
    if cast == "weight":
        second = w.node("Cast", [second], "w/Cast", to=TensorProto.FLOAT16)
    if cast == "activation":
        first = w.node("Cast", [first], "widen", to=TensorProto.FLOAT)
    output: str = w.node("MatMul", [first, second], "product")
    return finish(w, w.node("Cast", [output], "narrow", to=TensorProto.FLOAT16))


def embedded(stored: str) -> onnx.ModelProto:
    """An FP16 product and a table of words, looked up and then cast."""
    w = GraphWriter()
    table, index = w.constant("words", np.ones((50, 64), DTYPES[stored])), w.constant("index", np.arange(4))
    words = w.node("Cast", [w.node("Gather", [table, index], "words/Gather")], "words/Cast", to=TensorProto.FLOAT16)
    product = w.node("MatMul", ["x", w.constant("w", np.ones((64, 64), np.float16))], "product")
    return finish(w, w.node("Add", [product, words], "out"), rows=("batch", 4))


def unfolded(*, folded: bool) -> onnx.ModelProto:
    """A quantized product whose weight is stored as INT8, or as FP16 under a QuantizeLinear."""
    w = GraphWriter()
    scale, zero = w.constant("scale", SCALE), w.constant("zero", ZERO)
    floats = w.constant("floats", w.rng.normal(size=(64, 64)).astype(np.float16))
    y = weight(w) if folded else pair(w, floats, "w", w.constant("w_scale", WEIGHT_SCALE), zero)
    return finish(w, w.node("MatMul", [pair(w, "x", "x", scale, zero), y], "product"))


def product(kind: str, **attributes: Any) -> onnx.ModelProto:
    """Two products without quantization, all in one type."""
    w = GraphWriter()
    matrix = w.constant("w", np.ones((64, 64), DTYPES[kind]))
    x = w.node("MatMul", ["x", matrix], "first", **attributes)
    return finish(w, w.node("MatMul", [x, matrix], "second"), kind=kind)


def float_layer() -> onnx.ModelProto:
    """A product with a bias, in FP32, for others to quantize."""
    w = GraphWriter()
    matrix = w.constant("w", w.rng.normal(size=(64, 64)).astype(np.float32))
    bias = w.constant("b", w.rng.normal(size=64).astype(np.float32))
    return finish(w, w.node("Gemm", ["x", matrix, bias], "product"), kind="float32", rows=("batch",))


def in_function(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same nodes inside a local function that the graph calls once, with the weights as its inputs."""
    weights = [tensor.name for tensor in model.graph.initializer]
    result = model.graph.output[0].name
    body = helper.make_function(
        "local", "Body", ["x", *weights], [result], list(model.graph.node), list(model.opset_import)
    )
    call = helper.make_node("Body", ["x", *weights], [result], name="call", domain="local")
    graph = helper.make_graph(
        [call], "outer", list(model.graph.input), list(model.graph.output), model.graph.initializer
    )
    opsets = [*model.opset_import, helper.make_opsetid("local", 1)]
    return helper.make_model(graph, functions=[body], opset_imports=opsets, ir_version=9)


def in_branch(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same nodes inside the branch of an ``If``."""
    result = model.graph.output[0]
    then = helper.make_graph(list(model.graph.node), "then", [], [result], model.graph.initializer)
    other = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["same"], name="same")],
        "else",
        [],
        [helper.make_tensor_value_info("same", result.type.tensor_type.elem_type, None)],
    )
    w = GraphWriter()
    condition = w.constant("condition", np.array(True))
    w.nodes.append(helper.make_node("If", [condition], ["y"], name="if", then_branch=then, else_branch=other))
    graph = helper.make_graph(
        w.nodes,
        "outer",
        list(model.graph.input),
        [helper.make_tensor_value_info("y", result.type.tensor_type.elem_type, None)],
        list(w.weights.values()),
    )
    return helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=9)


def unsigned() -> onnx.ModelProto:
    """An encoder layer with activations as UINT8 around 128."""
    graph = ir.from_proto(encoder_graph(layers=1))
    UnsignedActivations()(graph)
    return ir.to_proto(graph)
