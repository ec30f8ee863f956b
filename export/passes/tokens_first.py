"""Tokens before channels: the transpositions around convolutions and normalizations cancel.

SqueezeBERT keeps ``(batch, channels, tokens)`` and turns every tensor for its normalizations. Once its convolutions are
products with a transposition on either side, nothing needs that layout: the transpositions are pushed towards the
graph's end until each meets its inverse.
"""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from export.passes.pointwise import SWAP, Sizes, make_node
from export.passes.qdq_nodes import DEQUANTIZE, QUANTIZE, add_initializer, constant, hand_over, operand, remove_dead

_ELEMENTWISE = (
    "Abs", "Add", "Cast", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity",
    "LeakyRelu", "Max", "Min", "Mish", "Mul", "Neg", "Pow", "Relu", "Selu", "Sigmoid", "Softplus", "Sub", "Tanh",
    QUANTIZE, DEQUANTIZE,
)  # fmt: skip
_HEADS_LAST, _CUT_HEADS, _JOIN_HEADS = (0, 1, 3, 2), (0, 2, 3, 1), (0, 2, 1, 3)


class TokensFirst(ir.passes.InPlacePass):
    """Moves swaps of channels and tokens down.

    Rules: (1) a swap is a Transpose of ``(0, 2, 1)``; (2) what works on single numbers (activation functions,
    per-tensor quantizers, arithmetic of swapped tensors and constants) works on the tensors before the swap, a constant
    with an axis of channels is stored swapped, and the swap follows it; (3) a Reshape that cuts a swapped tensor's
    channels into heads cuts the last axis instead, and one that joins ``(batch, heads, size, tokens)``, turned there
    just before, joins the last two axes; (4) a Transpose of a swapped or turned tensor is one Transpose, and none
    where the two cancel.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """The model with its swaps moved."""
        modified = False
        for node in list(model.graph):  # in order: what moves down is met again further down
            rule = _RULES.get(node.op_type) if node.domain == "" else None
            if rule is not None and rule(model, node):
                modified = True
        if modified:
            remove_dead(model)
        return ir.passes.PassResult(model, modified=modified)

    def ensures(self, model: ir.Model) -> None:
        """Every node has a name of its own."""
        names = [node.name for node in model.graph]
        if len(set(names)) != len(names):
            raise ir.passes.PostconditionError("moving transpositions made two nodes of one name")


def permutation(value: ir.Value) -> tuple[int, ...] | None:
    """How the Transpose that makes a value turns its axes, None where none makes it."""
    node = value.producer()
    return tuple(node.attributes.get_ints("perm", [])) if node is not None and node.op_type == "Transpose" else None


def _before_turn(value: ir.Value) -> ir.Value:
    turn = value.producer()
    assert turn is not None
    return operand(turn, 0)


def _move_below(model: ir.Model, node: ir.Node) -> bool:
    """Lets an elementwise node work on what its operands were before their swaps."""
    swapped = [index for index, value in enumerate(node.inputs) if value is not None and permutation(value) == SWAP]
    others = {index: value for index, value in enumerate(node.inputs) if value is not None and index not in swapped}
    output, readers = node.outputs[0], list(node.outputs[0].uses())
    if not swapped or not all(_swaps(value) for value in others.values()) or output.is_graph_output():
        return False
    for index in swapped:
        node.replace_input_with(index, _before_turn(operand(node, index)))
    for index, value in others.items():
        node.replace_input_with(index, _swap_constant(model, value))
    sizes = list(output.shape or (None, None, None))
    output.shape = ir.Shape([sizes[axis] for axis in SWAP])
    back = _turn(model, output, SWAP, sizes, after=node)
    for use in readers:
        use.node.replace_input_with(use.idx, back)
    return True


def _move_reshape(model: ir.Model, node: ir.Node) -> bool:
    """Cuts channels into heads, or joins heads to channels, along the last axes."""
    source = operand(node, 0)
    before, after = list(source.shape or ()), list(node.outputs[0].shape or ())
    turned = permutation(source)
    if turned == SWAP and len(after) == 4 and [after[0], after[3]] == [before[0], before[2]]:
        (batch, heads, size, tokens), inner = after, _before_turn(source)
        if not _fit(before[1], heads, size):
            return False
        cut = _reshape(model, inner, [0, 0, heads, size], (batch, tokens, heads, size), after=node)
        new = _turn(model, cut, _CUT_HEADS, after, after=_producer(cut))
    elif turned == _HEADS_LAST and len(after) == 3 and [after[0], after[2]] == [before[0], before[3]]:
        batch, heads, size, tokens = before
        if not _fit(after[1], heads, size):
            return False
        rows = _turn(model, _before_turn(source), _JOIN_HEADS, (batch, tokens, heads, size), after=node)
        joined = _reshape(model, rows, [0, 0, after[1]], (batch, tokens, after[1]), after=_producer(rows))
        new = _turn(model, joined, SWAP, after, after=_producer(joined))
    else:
        return False
    hand_over(node.outputs[0], new)
    return True


def _merge_turns(model: ir.Model, node: ir.Node) -> bool:
    """One Transpose for two, or none."""
    first, second = permutation(operand(node, 0)), permutation(node.outputs[0])
    if first not in (SWAP, _CUT_HEADS) or second is None or len(second) != len(first):
        return False
    source, both = _before_turn(operand(node, 0)), tuple(first[axis] for axis in second)
    if both == tuple(sorted(both)):
        if node.outputs[0].is_graph_output() and (source.producer() is None or source.is_graph_output()):
            return False  # one value cannot be two of the graph's inputs and outputs
        hand_over(node.outputs[0], source)
    else:
        node.replace_input_with(0, source)
        node.attributes["perm"] = ir.AttrInt64s("perm", both)
    return True


_RULES: dict[str, Callable[[ir.Model, ir.Node], bool]] = {
    **dict.fromkeys(_ELEMENTWISE, _move_below),
    "Reshape": _move_reshape,
    "Transpose": _merge_turns,
}


def _swaps(value: ir.Value) -> bool:
    """Whether a value is one number, or a constant that says which of its axes holds channels."""
    array = constant(value)
    return array is not None and (array.size == 1 or array.ndim > 1)


def _swap_constant(model: ir.Model, value: ir.Value) -> ir.Value:
    array = constant(value)
    if array is None or array.size == 1:
        return value
    return add_initializer(model, f"{value.name}_tokens_first", array.swapaxes(-1, -2))


def _fit(channels: object, heads: object, size: object) -> bool:
    return isinstance(heads, int) and isinstance(size, int) and channels == heads * size


def _producer(value: ir.Value) -> ir.Node:
    node = value.producer()
    assert node is not None
    return node


def _turn(model: ir.Model, value: ir.Value, perm: tuple[int, ...], sizes: Sizes, *, after: ir.Node) -> ir.Value:
    node = make_node(model, "Transpose", [value], {"perm": perm}, like=after)
    node.outputs[0].shape, node.outputs[0].type = ir.Shape(sizes), value.type
    model.graph.insert_after(after, node)
    return node.outputs[0]


def _reshape(model: ir.Model, value: ir.Value, target: list[object], sizes: Sizes, *, after: ir.Node) -> ir.Value:
    name = f"shape_{'x'.join(map(str, target))}"
    shape = add_initializer(model, name, np.array(target, np.int64))
    node = make_node(model, "Reshape", [value, shape], {}, like=after)
    node.outputs[0].shape, node.outputs[0].type = ir.Shape(sizes), value.type
    model.graph.insert_after(after, node)
    return node.outputs[0]
