"""ConvBERT's depthwise convolution as a sum of shifted products, tokens first as everything around it.

A convolution wants channels first: in the plan of TensorRT for RTX 1.7 its input is written once more in that order,
and its output once in FP16 before another kernel quantizes it. The sum is fused into the kernel that makes the tokens,
which then writes the INT8 input of the pointwise half (four layers of hidden size 256: 71 kernels instead of 79, 6 %
fewer activation bytes). ONNX Runtime's convolution is faster than its elementwise kernels and stays.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.passes.qdq_nodes import add_initializer, constant, nodes_of, operand, remove_dead
from export.passes.shifted_products import NodeChain, sum_shifted

_SWAP = [0, 2, 1]


class DepthwiseConvolution(ir.passes.InPlacePass):
    """Rewrites depthwise convolutions over tokens whose weight is float.

    Rules: (1) a Conv with one input channel a group, stride and dilation 1 and an odd kernel padded to keep its length,
    reading a Transpose of ``(batch, tokens, channels)``, is one; (2) it becomes a sum of shifted products on what the
    Transpose read, and a Transpose behind it; (3) a quantized depthwise convolution stays.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """The model with sums of shifted products."""
        found = [each for conv in nodes_of(model, "Conv") if (each := _read_depthwise(conv)) is not None]
        for depthwise in found:
            _rewrite(model, depthwise)
        if found:
            remove_dead(model)
        return ir.passes.PassResult(model, modified=bool(found))

    def ensures(self, model: ir.Model) -> None:
        """None of them is left."""
        left = [conv.name for conv in nodes_of(model, "Conv") if _read_depthwise(conv) is not None]
        if left:
            raise ir.passes.PostconditionError(f"depthwise convolutions are left: {left[:3]}")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Depthwise:
    """The Conv, the ``(batch, tokens, channels)`` before its Transpose, its weight ``(channels, 1, K)`` and bias."""

    conv: ir.Node
    values: ir.Value
    weight: NDArray[np.generic]
    bias: ir.Value | None


def _read_depthwise(conv: ir.Node) -> _Depthwise | None:
    transpose, weight = operand(conv, 0).producer(), constant(operand(conv, 1))
    if transpose is None or transpose.op_type != "Transpose" or weight is None or weight.ndim != 3:
        return None
    channels, depth, kernel = weight.shape
    plain = all(step == 1 for name in ("strides", "dilations") for step in conv.attributes.get_ints(name, [1]))
    padded = list(conv.attributes.get_ints("pads", [0, 0])) == [kernel // 2] * 2
    depthwise = depth == 1 and conv.attributes.get_int("group", 1) == channels
    swaps = list(transpose.attributes.get_ints("perm", [])) == _SWAP
    if not (plain and padded and depthwise and swaps and kernel % 2):
        return None
    bias = conv.inputs[2] if len(conv.inputs) > 2 else None
    return _Depthwise(conv=conv, values=operand(transpose, 0), weight=weight, bias=bias)


def _rewrite(model: ir.Model, depthwise: _Depthwise) -> None:
    conv, values, weight = depthwise.conv, depthwise.values, depthwise.weight
    chain = NodeChain(model, (conv.name or "").rpartition("/")[0], values)
    name = operand(conv, 1).name
    factors = [add_initializer(model, f"{name}_{k}", weight[:, 0, k]) for k in range(weight.shape[2])]
    total = sum_shifted(chain, values, factors)
    if depthwise.bias is not None:
        total = chain.add("Add_bias", [total, depthwise.bias], list(values.shape or ()))
    swapped = chain.add("Transpose_channels", [total], list(conv.outputs[0].shape or ()), {"perm": _SWAP})
    model.graph.insert_before(conv, chain.nodes)
    ir.convenience.replace_all_uses_with(conv.outputs[0], swapped)
