"""The multiply-accumulates of a parsed network, from the builder's own shapes."""

import re
from collections.abc import Sequence
from math import prod
from typing import Any

_ONNX_LAYER = re.compile(r"\[ONNX Layer: (.*?)\](?=[\x1e\x1f]|\[ONNX Layer: |$)")


def read_metadata(text: str) -> tuple[str, ...]:
    r"""The ONNX nodes that a builder's metadata names.

    >>> read_metadata("[ONNX Layer: a/MatMul]\x1f[ONNX Layer: b[0]]")
    ('a/MatMul', 'b[0]')
    """
    return tuple(_ONNX_LAYER.findall(text))


def count_macs(trt: Any, network: Any) -> dict[str, int]:
    """Multiply-accumulates by ONNX node, of every matrix product and convolution whose shapes are known."""
    found: dict[str, int] = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type not in (trt.LayerType.MATRIX_MULTIPLY, trt.LayerType.CONVOLUTION):
            continue
        names = read_metadata(layer.metadata) or (layer.name,)
        shapes = [tuple(layer.get_input(i).shape) for i in range(layer.num_inputs) if layer.get_input(i) is not None]
        output = tuple(layer.get_output(0).shape)
        if layer.type == trt.LayerType.MATRIX_MULTIPLY:
            depth = _matrix_depth(shapes[0], output)
        else:
            depth = _kernel_depth(trt, layer, shapes)
        if min(output, default=1) > 0 and depth > 0:
            found[names[0]] = found.get(names[0], 0) + prod(output) * depth
    return found


def _matrix_depth(left: Sequence[int], output: Sequence[int]) -> int:
    """The length of the inner axis, whichever way the left operand lies.

    >>> _matrix_depth((8, 16, 64), (8, 16, 32)), _matrix_depth((8, 64, 16), (8, 16, 32))
    (64, 64)
    """
    if len(left) < 2 or len(output) < 2:
        return left[-1]
    return left[-1] * left[-2] // output[-2] if output[-2] > 0 else 0


def _kernel_depth(trt: Any, layer: Any, shapes: Sequence[Sequence[int]]) -> int:
    if len(shapes) > 1:
        return prod(shapes[1][1:])
    layer.__class__ = trt.IConvolutionLayer  # how the bindings down-cast a layer
    return shapes[0][1] // int(layer.num_groups) * prod(int(size) for size in layer.kernel_size_nd)
