"""The last layer for the tokens that are read: a head that takes the first token needs no other of them.

Attention mixes tokens, everything else in an encoder works on each alone. Where a head reads one token, that token's
query, its row of the attention and its feed-forward block are all the last layer has to compute; keys and values stay
whole. The numbers are the same. Of a six-layer BERT of hidden size 384 that is 14 % of the multiply-accumulates.
"""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from export.passes.qdq_nodes import DEQUANTIZE, QUANTIZE, add_initializer, constant, nodes_of, operand

_ELEMENTWISE = (
    "Add", "Cast", "Clip", "Div", "Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Mish",
    "Mul", "Neg", "Pow", "Relu", "Selu", "Sigmoid", "Softplus", "Sqrt", "Sub", "Sum", "Tanh",
)  # fmt: skip
_Uses = list[tuple[ir.Node, int]]
_Claims = dict[ir.Value, tuple[int, _Uses]]


class KeepReadTokens(ir.passes.InPlacePass):
    """Moves the Gather of the first token up.

    Rules: (1) a Gather of index 0 on axis 1 of ``(batch, tokens, channels)`` is one; (2) what works on each
    token alone works on that token only, if all its readers do; (3) of a product of two activations the rows of the
    first are tokens, and the second stays whole; (4) where (2) ends, a Gather takes the token out, and keeps its axis;
    what others read quantized is taken out before it is, and quantized again, since engines look for that pair right in
    front of a product; (5) nothing is done where no product is spared.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """The model with narrow tensors in its last layer."""
        modified = False
        for gather in nodes_of(model, "Gather"):
            if _reads_first_token(gather):
                modified = _narrow(model, gather) or modified
        return ir.passes.PassResult(model, modified=modified)


def _reads_first_token(gather: ir.Node) -> bool:
    index, source = constant(operand(gather, 1)), operand(gather, 0)
    sizes = list(source.shape or ())
    on_tokens = gather.attributes.get_int("axis", 0) == 1 and len(sizes) == 3
    return on_tokens and index is not None and index.shape == () and int(index) == 0 and not isinstance(sizes[1], int)


def _narrow(model: ir.Model, gather: ir.Node) -> bool:
    """Whether products above a Gather were narrowed to the first token."""
    source = operand(gather, 0)
    claims: _Claims = {source: (1, [(gather, 0)])}
    narrowed, boundaries = _spread(model, claims)
    if not any(node.op_type == "MatMul" for node in narrowed):
        return False
    index = add_initializer(model, "first_token", np.array([0], np.int64))
    for value in boundaries:
        axis, uses = claims[value]
        _cut(model, value, axis, index, uses)
    for node in narrowed:
        output = node.outputs[0]
        output.shape = ir.Shape([1 if i == claims[output][0] else size for i, size in enumerate(output.shape or ())])
    return True


def _spread(model: ir.Model, claims: _Claims) -> tuple[list[ir.Node], list[ir.Value]]:
    """The nodes that may work on one token, last first, and the values where that ends; fills ``claims`` on the way."""
    narrowed, boundaries = [], []
    for node in reversed(list(model.graph)):
        output = node.outputs[0] if len(node.outputs) == 1 else None
        if output is None or output not in claims:
            continue
        axis, uses = claims[output]
        sources = _trace(node, axis) if len(uses) == len(list(output.uses())) and not output.is_graph_output() else None
        if sources is None:
            boundaries.append(output)
            continue
        narrowed.append(node)
        for place, source_axis in sources:
            value = operand(node, place)
            known = claims.setdefault(value, (source_axis, []))
            known[1].append((node, place))
    boundaries += [value for value in claims if value.producer() is None]
    return narrowed, boundaries


def _trace(node: ir.Node, axis: int) -> list[tuple[int, int]] | None:
    """The inputs of a node that hold tokens, each with their axis; None where the node mixes them."""
    rule = _RULES.get(node.op_type) if node.domain == "" else None
    return None if rule is None else rule(node, axis)


def _trace_elementwise(node: ir.Node, axis: int) -> list[tuple[int, int]] | None:
    rank, found = len(node.outputs[0].shape or ()), []
    for place, value in enumerate(node.inputs):
        if value is None or value.shape is None:
            return None
        own = axis - (rank - len(value.shape))
        if own >= 0 and value.shape[own] != 1:
            found.append((place, own))
    return found


def _trace_first(node: ir.Node, axis: int) -> list[tuple[int, int]] | None:
    """Of what works along the last axis, and of quantizers with one scale."""
    last = len(node.outputs[0].shape or ()) - 1
    if node.op_type in (QUANTIZE, DEQUANTIZE):
        scale = constant(operand(node, 1))
        return [(0, axis)] if scale is not None and scale.size == 1 else None
    along = node.attributes.get_int("axis", -1)
    return [(0, axis)] if along in (-1, last) and axis != last else None


def _trace_product(node: ir.Node, axis: int) -> list[tuple[int, int]] | None:
    rank = len(node.outputs[0].shape or ())
    return [(0, axis)] if axis == rank - 2 and len(operand(node, 0).shape or ()) == rank else None


def _trace_transpose(node: ir.Node, axis: int) -> list[tuple[int, int]] | None:
    turns = list(node.attributes.get_ints("perm", []))
    return [(0, turns[axis])] if turns else None


def _trace_reshape(node: ir.Node, axis: int) -> list[tuple[int, int]] | None:
    """Of a Reshape that leaves the axes up to the tokens' alone, whatever their number is."""
    target = constant(operand(node, 1))
    before, after = list(operand(node, 0).shape or ()), list(node.outputs[0].shape or ())
    kept = len(before) > axis and before[: axis + 1] == after[: axis + 1]
    return [(0, axis)] if kept and target is not None and int(target[axis]) in (0, -1) else None


def _trace_concat(node: ir.Node, axis: int) -> list[tuple[int, int]] | None:
    rank = len(node.outputs[0].shape or ())
    apart = node.attributes.get_int("axis", 0) % rank != axis
    return [(place, axis) for place in range(len(node.inputs))] if apart else None


def _trace_slice(node: ir.Node, axis: int) -> list[tuple[int, int]] | None:
    rank, axes = len(node.outputs[0].shape or ()), constant(node.inputs[3] if len(node.inputs) > 3 else None)
    return None if axes is None or axis in {int(each) % rank for each in axes.reshape(-1)} else [(0, axis)]


_RULES: dict[str, Callable[[ir.Node, int], list[tuple[int, int]] | None]] = {
    **dict.fromkeys(_ELEMENTWISE, _trace_elementwise),
    **dict.fromkeys(("LayerNormalization", "Softmax", QUANTIZE, DEQUANTIZE), _trace_first),
    "Concat": _trace_concat,
    "MatMul": _trace_product,
    "Reshape": _trace_reshape,
    "Slice": _trace_slice,
    "Transpose": _trace_transpose,
}


def _cut(model: ir.Model, value: ir.Value, axis: int, index: ir.Value, uses: _Uses) -> None:
    """Lets the claimed readers of a value read one token of it."""
    pair = _find_pair(value)
    source = value if pair is None else operand(pair[0], 0)
    nodes = [ir.node("Gather", [source, index], {"axis": axis}, name=f"{value.name}_token/Gather")]
    for node in pair or ():
        parameters = [operand(node, 1), operand(node, 2)]
        inputs = [nodes[-1].outputs[0], *parameters]
        nodes.append(ir.node(node.op_type, inputs, name=f"{value.name}_token/{node.op_type}"))
    types = [source.type, *(node.outputs[0].type for node in pair or ())]
    for node, kind in zip(nodes, types, strict=True):
        node.outputs[0].name, node.outputs[0].type = f"{value.name}_{node.op_type}_token", kind
        node.outputs[0].shape = ir.Shape([1 if i == axis else size for i, size in enumerate(value.shape or ())])
    producer = value.producer()
    if producer is None:
        model.graph.insert_before(model.graph[0], nodes)
    else:
        model.graph.insert_after(producer, nodes)
    for reader, place in uses:
        reader.replace_input_with(place, nodes[-1].outputs[0])


def _find_pair(value: ir.Value) -> tuple[ir.Node, ir.Node] | None:
    """The QuantizeLinear and DequantizeLinear with one scale that make a value."""
    dequantize = value.producer()
    if dequantize is None or dequantize.op_type != DEQUANTIZE:
        return None
    quantize, scale = operand(dequantize, 0).producer(), constant(operand(dequantize, 1))
    single = scale is not None and scale.size == 1
    return (quantize, dequantize) if quantize is not None and quantize.op_type == QUANTIZE and single else None
