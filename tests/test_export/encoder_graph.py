"""Small BERT-like encoders as Q/DQ ONNX graphs, written node by node: what an exporter should produce."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import TensorProto, helper, numpy_helper

HIDDEN, HEADS, INNER = 64, 4, 128


@dataclass
class GraphWriter:
    """Nodes and initializers, named as they are added."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, onnx.TensorProto] = field(default_factory=dict)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def constant(self, name: str, value: ArrayLike) -> str:
        self.weights.setdefault(name, numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, operation: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operation, list(inputs), [f"{name}:0"], name=name, **attributes))
        return f"{name}:0"

    def quantize(self, x: str, name: str, scale: float = 0.05) -> str:
        facts = [self.constant(f"{name}/scale", np.float16(scale)), self.constant("zero", np.int8(0))]
        return self.node(
            "DequantizeLinear", [self.node("QuantizeLinear", [x, *facts], f"{name}/Q"), *facts], f"{name}/DQ"
        )

    def linear(self, x: str, name: str, shape: tuple[int, int], *, int8: bool) -> str:
        if int8:
            weight = self.constant(f"{name}/w", self.rng.integers(-127, 127, shape).astype(np.int8))
            facts = [self.constant("w_scale", np.float16(0.01)), self.constant("zero", np.int8(0))]
            weight = self.node("DequantizeLinear", [weight, *facts], f"{name}/wDQ")
        else:
            weight = self.constant(f"{name}/w", self.rng.normal(size=shape).astype(np.float16))
        bias = self.constant(f"{name}/b", self.rng.normal(size=shape[1]).astype(np.float16))
        return self.node("Add", [self.node("MatMul", [x, weight], f"{name}/MatMul"), bias], f"{name}/Add")

    def normalize(self, x: str, name: str) -> str:
        facts = [
            self.constant("ones", np.ones(HIDDEN, np.float16)),
            self.constant("zeros", np.zeros(HIDDEN, np.float16)),
        ]
        return self.node("LayerNormalization", [x, *facts], name, axis=-1)


def encoder_graph(
    *, layers: int = 2, quantized: str = "qkvp", float_linears: Sequence[str] = (), int8: bool = True
) -> onnx.ModelProto:
    """An encoder of hidden size 64 with a pooler and a classifier of three labels.

    ``quantized`` says which of q, k, v and probs are quantized, ``float_linears`` which linears (``0/down``) are not.
    """
    w = GraphWriter()
    x = w.node(
        "Gather", [w.constant("words", w.rng.normal(size=(50, HIDDEN)).astype(np.float16)), "input_ids"], "words/Gather"
    )
    x = w.normalize(x, "embeddings/norm")
    mask = w.node("Cast", ["attention_mask"], "mask/Cast", to=TensorProto.FLOAT16)
    mask = w.node("Sub", [mask, w.constant("one", np.float16(1))], "mask/Sub")
    mask = w.node("Mul", [mask, w.constant("large", np.float16(10000))], "mask/Mul")
    mask = w.node("Unsqueeze", [mask, w.constant("axes", np.array([1, 2]))], "mask/Unsqueeze")
    for layer in range(layers):
        x = _add_layer(w, x, mask, layer, quantized if int8 else "", _linears(layer, float_linears, int8=int8))
    x = w.node("Gather", [x, w.constant("first", np.int64(0))], "pooler/Gather", axis=1)
    x = w.node("Tanh", [w.linear(x, "pooler", (HIDDEN, HIDDEN), int8=False)], "pooler/Tanh")
    w.linear(x, "classifier", (HIDDEN, 3), int8=False)
    return finish_graph(
        w, {"input_ids": ["batch", "sequence"], "attention_mask": ["batch", "sequence"]}, "classifier/Add:0"
    )


def _linears(layer: int, left_float: Sequence[str], *, int8: bool) -> set[str]:
    return {name for name in ("q", "k", "v", "out", "up", "down") if int8 and f"{layer}/{name}" not in left_float}


def _add_layer(w: GraphWriter, x: str, mask: str, layer: int, quantized: str, int8: set[str]) -> str:
    p, size = f"encoder/{layer}", HIDDEN // HEADS
    entry = w.quantize(x, f"{p}/hidden") if int8 else x
    parts = {}
    for part in "qkv":
        y = w.linear(entry if part in int8 else x, f"{p}/{part}", (HIDDEN, HIDDEN), int8=part in int8)
        y = w.node("Reshape", [y, w.constant("split", np.array([0, 0, HEADS, size]))], f"{p}/{part}/Reshape")
        y = w.node("Transpose", [y], f"{p}/{part}/Transpose", perm=[0, 2, 3, 1] if part == "k" else [0, 2, 1, 3])
        if part == "q":
            y = w.node("Mul", [y, w.constant("root", np.float16(size**-0.5))], f"{p}/q/Mul")
        parts[part] = w.quantize(y, f"{p}/{part}/output") if part in quantized else y
    probs = w.node("Add", [w.node("MatMul", [parts["q"], parts["k"]], f"{p}/scores"), mask], f"{p}/mask")
    probs = w.node("Softmax", [probs], f"{p}/softmax", axis=-1)
    probs = w.quantize(probs, f"{p}/probs", 1 / 127) if "p" in quantized else probs
    y = w.node("Transpose", [w.node("MatMul", [probs, parts["v"]], f"{p}/context")], f"{p}/merge", perm=[0, 2, 1, 3])
    y = w.node("Reshape", [y, w.constant("join", np.array([0, 0, HIDDEN]))], f"{p}/join")
    y = w.linear(
        w.quantize(y, f"{p}/out/input") if "out" in int8 else y, f"{p}/out", (HIDDEN, HIDDEN), int8="out" in int8
    )
    x = w.normalize(w.node("Add", [y, entry], f"{p}/add"), f"{p}/norm")
    entry = w.quantize(x, f"{p}/ffn/hidden") if int8 else x
    y = w.linear(entry if "up" in int8 else x, f"{p}/up", (HIDDEN, INNER), int8="up" in int8)
    y = w.node("Gelu", [y], f"{p}/gelu")
    y = w.linear(
        w.quantize(y, f"{p}/down/input") if "down" in int8 else y, f"{p}/down", (INNER, HIDDEN), int8="down" in int8
    )
    return w.normalize(w.node("Add", [y, entry], f"{p}/ffn/add"), f"{p}/ffn/norm")


def finish_graph(w: GraphWriter, inputs: dict[str, list[str]], output: str) -> onnx.ModelProto:
    """The checked model of integer inputs and one FP16 output whose rank is left to shape inference."""
    values = [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name, shape in inputs.items()]
    result = helper.make_tensor_value_info(output, TensorProto.FLOAT16, ["batch", 3])
    graph = helper.make_graph(w.nodes, "encoder", values, [result], list(w.weights.values()))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def linear_graph(
    rows: Sequence[int | str] = ("batch", "sequence"),
    *,
    per_channel: bool = False,
    weight_only: bool = False,
    names: bool = True,
) -> onnx.ModelProto:
    """One quantized product of 64 x 128 on an FP16 input of ``rows`` + (64,)."""
    w = GraphWriter()
    x = "x" if weight_only else w.quantize("x", "x_quant")
    weight = w.constant("w", w.rng.integers(-127, 127, (64, 128)).astype(np.int8))
    scale = w.constant("w_scale", np.full(128, 0.01, np.float16) if per_channel else np.float16(0.01))
    zero = w.constant("w_zero", np.zeros(128, np.int8) if per_channel else np.int8(0))
    axis = {"axis": 1} if per_channel else {}
    product = w.node("MatMul", [x, w.node("DequantizeLinear", [weight, scale, zero], "wDQ", **axis)], "product")
    y = w.node("Add", [product, w.constant("b", w.rng.normal(size=128).astype(np.float16))], "bias")
    if not names:
        for node in w.nodes:
            node.name = ""
    graph = helper.make_graph(
        w.nodes,
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [*rows, 64])],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT16, [*rows, 128])],
        list(w.weights.values()),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def save_graph(folder: Path, model: onnx.ModelProto) -> Path:
    """The path of the model, written into ``folder``."""
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path
