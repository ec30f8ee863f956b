"""Graphs of one convolution of kernel size 1 between its quantizers, written out, for the passes that replace it."""

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.passes.fold_weights import FoldWeights

BATCH, CHANNELS, TOKENS = 2, 12, 5


def conv_graph(
    *, groups: int, outputs: int = 24, scales: str = "tensor", bias: bool = True, kernel: int = 1
) -> ir.Model:
    """A Conv over ``(batch, channels, tokens)``; ``scales`` of its weight: ``tensor``, ``channel``, or ``none``."""
    chance = np.random.default_rng(groups)
    arrays: dict[str, NDArray[np.generic]] = {
        "w": chance.normal(size=(outputs, CHANNELS // groups, kernel)).astype(np.float32),
        "b": chance.normal(size=outputs).astype(np.float32),
        "x_scale": np.array(0.02, np.float32),
        "w_scale": np.float32(0.02) + 0.01 * chance.random(outputs if scales == "channel" else ()).astype(np.float32),
        "x_zero": np.array(0, np.int8),
        "w_zero": np.zeros(outputs if scales == "channel" else (), np.int8),
    }
    axis: dict[str, Any] = {"axis": 0} if scales == "channel" else {}
    weight = "w" if scales == "none" else "w_rounded"
    quantizers = [
        helper.make_node("QuantizeLinear", ["w", "w_scale", "w_zero"], ["w_levels"], "layer.conv/Q", **axis),
        helper.make_node("DequantizeLinear", ["w_levels", "w_scale", "w_zero"], ["w_rounded"], "layer.conv/DQ", **axis),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["levels"], "layer.input/Q"),
        helper.make_node("DequantizeLinear", ["levels", "x_scale", "x_zero"], ["rounded"], "layer.input/DQ"),
        *(quantizers if scales != "none" else []),
        helper.make_node(
            "Conv", ["rounded", weight, *(["b"] if bias else [])], ["y"], "layer.conv/Conv", group=groups,
            kernel_shape=[kernel], pads=[kernel // 2, kernel // 2],
        ),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", CHANNELS, "tokens"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", outputs, "tokens"])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
        value_info=[helper.make_tensor_value_info("rounded", TensorProto.FLOAT, ["batch", CHANNELS, "tokens"])],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


def folded(graph: ir.Model) -> ir.Model:
    """A copy of the graph with its weight in INT8."""
    copy = graph.clone()
    FoldWeights()(copy)
    return copy


def feed() -> dict[str, NDArray[np.float32]]:
    """An input, always the same one."""
    return {"x": np.random.default_rng(5).normal(size=(BATCH, CHANNELS, TOKENS)).astype(np.float32)}


def operations(graph: ir.Model) -> list[str]:
    """The operators of the graph's nodes, in order."""
    return [node.op_type for node in graph.graph]
