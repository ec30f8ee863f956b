"""ConvBERT's span convolution as a sum of shifted products, which engines compute in one kernel.

Exported, every token's window is gathered into a matrix of its own (im2col: each value written as often as the kernel
is long) and multiplied by that token's kernel in a batch of matrix-vector products. The same sum over slices of the
padded tokens needs no copies: TensorRT for RTX 1.7 fuses it into one kernel with what follows (four layers of hidden
size 256 in INT8: 79 kernels instead of 95, and conv_out joins the GEMM of q, k and v); ONNX Runtime 1.31 needs a third
of the time for the whole model.
"""

from dataclasses import dataclass

import onnx_ir as ir

from export.passes.qdq_nodes import nodes_of, operand, remove_dead
from export.passes.shifted_products import NodeChain, sum_shifted

_UNFOLD = frozenset({"Reshape", "Transpose", "Unsqueeze", "Squeeze", "Gather", "Pad"})


class SpanConvolution(ir.passes.InPlacePass):
    """Rewrites convolutions whose kernels are activations.

    Rules: (1) a MatMul of gathered windows of a padded ``(batch, tokens, channels)`` value by a Softmax over the kernel
    is one; (2) it becomes ``sum_k kernel[:, :, :, k] * padded[:, k:k + tokens]``, shaped ``(batch, tokens, heads,
    size)``; (3) its Softmax runs over the last axis of ``(batch, tokens, heads, kernel)``; (4) batch and tokens stay
    free.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """The model with sums of shifted products."""
        found = [span for matmul in nodes_of(model, "MatMul") if (span := _read_span(matmul)) is not None]
        for span in found:
            _rewrite(model, span)
        if found:
            remove_dead(model)
        return ir.passes.PassResult(model, modified=bool(found))

    def ensures(self, model: ir.Model) -> None:
        """No window is gathered."""
        left = [matmul.name for matmul in nodes_of(model, "MatMul") if _read_span(matmul) is not None]
        if left:
            raise ir.passes.PostconditionError(f"span convolutions are left: {left[:3]}")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Span:
    """The product, its result as ``(batch, tokens, heads, size)``, and the values and kernel logits it comes from."""

    matmul: ir.Node
    result: ir.Value
    values: ir.Value
    logits: ir.Value
    heads: int
    size: int
    kernel: int


def _read_span(matmul: ir.Node) -> _Span | None:
    softmax = operand(matmul, 1).producer()
    windows = _sizes(operand(matmul, 0))
    if softmax is None or softmax.op_type != "Softmax" or len(windows) != 3:
        return None
    reshape = operand(softmax, 0).producer()
    if reshape is None or reshape.op_type != "Reshape":
        return None
    size, kernel = windows[1:]
    values, logits = _find_values(operand(matmul, 0)), operand(reshape, 0)
    if values is None or _sizes(operand(softmax, 0))[1:] != [kernel, 1] or len(_sizes(logits)) != 3:
        return None
    result = _find_result(matmul.outputs[0])
    heads = _sizes(result)[2] if len(_sizes(result)) == 4 else None
    if not isinstance(size, int) or not isinstance(kernel, int) or not isinstance(heads, int):
        return None
    return _Span(
        matmul=matmul, result=result, values=values, logits=logits, heads=heads, size=size, kernel=kernel
    )  # fmt: skip


def _find_values(windows: ir.Value) -> ir.Value | None:
    """What the windows were gathered from: ``(batch, tokens, channels)``; None where nothing was gathered."""
    seen, value = set[str](), windows
    while (node := value.producer()) is not None and node.op_type in _UNFOLD:
        seen.add(node.op_type)
        value = operand(node, 0)
    return value if {"Gather", "Pad"} <= seen and len(_sizes(value)) == 3 else None


def _find_result(product: ir.Value) -> ir.Value:
    """The product behind the reshapes that alone read it."""
    value = product
    while len(uses := list(value.uses())) == 1 and uses[0].node.op_type == "Reshape":
        value = uses[0].node.outputs[0]
        if len(_sizes(value)) == 4:
            break
    return value


def _sizes(value: ir.Value) -> list[int | ir.SymbolicDim]:
    return list(value.shape or ())


def _rewrite(model: ir.Model, span: _Span) -> None:
    chain = NodeChain(model, f"{(span.matmul.name or '').rpartition('/')[0]}/span", span.values)
    batch, tokens, _ = _sizes(span.values)
    heads, size, kernel = span.heads, span.size, span.kernel
    shape = (batch, tokens, heads, kernel)
    logits = chain.add("Reshape_kernels", [span.logits, chain.indices(0, 0, heads, kernel)], shape)
    kernels = chain.add("Softmax", [logits], shape, {"axis": -1})
    by_head = chain.indices(0, 0, heads, size)
    values = chain.add("Reshape_values", [span.values, by_head], (batch, tokens, heads, size))
    one = (batch, tokens, heads, 1)
    factors = [chain.slice(f"Slice_kernel_{k}", kernels, (k, k + 1), 3, one) for k in range(kernel)]
    total = sum_shifted(chain, values, factors)
    model.graph.insert_before(span.matmul, chain.nodes)
    ir.convenience.replace_all_uses_with(span.result, total)
