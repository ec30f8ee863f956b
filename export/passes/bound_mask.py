"""A bounded attention mask: 0 and -10000 straight from the input, instead of FP32's lowest number and its machinery.

The lowest FP32 number becomes -inf in FP16, and the exporter spends twenty nodes of shape arithmetic on it. A masked
score at -10000 has probability exactly 0 after the softmax, in FP16 and FP32, as long as one token of the row is real.
"""

import numpy as np
import onnx_ir as ir

from export.passes.qdq_nodes import add_initializer, constant, nodes_of, operand, remove_dead

MASKED_SCORE = -10000.0
MASK_INPUT = "attention_mask"
_SHAPING = ("Unsqueeze", "Reshape")
_COMPARISONS = ("LessOrEqual", "Less", "GreaterOrEqual", "Greater")


class BoundMask(ir.passes.InPlacePass):
    """Rebuilds the additive mask of attention.

    Rules: (1) what is added right before a softmax, or to what is added there, and depends on nothing but graph inputs
    is the mask; (2) it becomes
    ``(1 - attention_mask) * -10000``, shaped ``(batch, 1, 1, tokens)``, built once; of a mask ``(batch, choices,
    tokens)`` the choices follow one another; (3) of a causal mask, one that compares the places of several queries with
    those of the keys, the comparison stays, and what it forbids gets -10000 more; (4) what made the old one goes.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """The model with the bounded mask."""
        sites = [
            (add, index) for softmax in nodes_of(model, "Softmax") for add, index in _mask_operands(model, softmax)
        ]
        if not sites:
            return ir.passes.PassResult(model, modified=False)
        old = operand(*sites[0])
        mask = _build_mask(model, instead_of=old)
        allowed = _find_order(old)
        if allowed is not None:
            mask = _add_order(model, mask, allowed, instead_of=old)
        for add, index in sites:
            add.replace_input_with(index, mask)
        remove_dead(model)
        return ir.passes.PassResult(model, modified=True)

    def requires(self, model: ir.Model) -> None:
        """An ``attention_mask`` of two or three axes is a graph input wherever a softmax has a mask."""
        masked = any(_mask_operands(model, softmax) for softmax in nodes_of(model, "Softmax"))
        shapes = {value.name: value.shape for value in model.graph.inputs}
        if masked and (shapes.get(MASK_INPUT) is None or len(shapes[MASK_INPUT] or ()) not in (2, 3)):
            raise ir.passes.PreconditionError(f"attention has a mask but '{MASK_INPUT}' is no input of 2 or 3 axes")


def _mask_operands(model: ir.Model, softmax: ir.Node) -> list[tuple[ir.Node, int]]:
    add = operand(softmax, 0).producer()
    if add is None or add.op_type != "Add":
        return []
    # with relative positions the mask is added to the scores of distances first
    inner = [each.producer() for each in add.inputs if each is not None]
    adds = [add, *(each for each in inner if each is not None and each.op_type == "Add")]
    masks = [(each, index) for each in adds for index in (0, 1) if _depends_only_on_mask(operand(each, index))]
    return [(each, index) for each, index in masks if not _is_bounded(operand(each, index))]


def _is_bounded(mask: ir.Value) -> bool:
    scores = mask.producer()
    while scores is not None and scores.op_type in (*_SHAPING, "Add"):
        scores = operand(scores, 0).producer()
    lowest = constant(operand(scores, 1)) if scores is not None and scores.op_type == "Mul" else None
    return lowest is not None and lowest.size == 1 and float(lowest) == MASKED_SCORE


def _depends_only_on_mask(value: ir.Value) -> bool:
    inputs = {each.name for each in _sources(value) if each.is_graph_input()}
    return inputs == {MASK_INPUT}


def _sources(value: ir.Value) -> set[ir.Value]:
    """The value and all that it is made of; sizes are not content."""
    waiting, seen = [value], set()
    while waiting:
        current = waiting.pop()
        node = current.producer()
        if current in seen:
            continue
        seen.add(current)
        if node is not None and node.op_type != "Shape":
            waiting.extend(each for each in node.inputs if each is not None)
    return seen


def _find_order(mask: ir.Value) -> ir.Value | None:
    """Which keys the place of a query lets it see, ``(1, 1, queries, keys)``; None where all see all.

    One query alone is the last of its row: it sees every key. An encoder's mask compares places with 0, which is true
    of all.
    """
    if mask.shape is None or mask.shape[-2] == 1:
        return None
    return next((each for each in _sources(mask) if _compares_places(each.producer())), None)


def _compares_places(node: ir.Node | None) -> bool:
    if node is None or node.op_type not in _COMPARISONS:
        return False
    return all(constant(operand(node, index)) is None for index in (0, 1))


def _add_order(model: ir.Model, mask: ir.Value, allowed: ir.Value, instead_of: ir.Value) -> ir.Value:
    zero = add_initializer(model, "mask_zero", np.array(0.0, np.float32))
    lowest = add_initializer(model, "mask_lowest", np.array(MASKED_SCORE, np.float32))
    order = ir.node("Where", [allowed, zero, lowest], name="mask/Where")
    both = ir.node("Add", [mask, order.outputs[0]], name="mask/Add")
    for node, shape in ((order, allowed.shape), (both, instead_of.shape)):
        node.outputs[0].name = (node.name or "").replace("/", "_")
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        node.outputs[0].shape = shape
    compared = allowed.producer()
    assert compared is not None
    model.graph.insert_after(compared, [order, both])
    return both.outputs[0]


def _build_mask(model: ir.Model, instead_of: ir.Value) -> ir.Value:
    source = next(value for value in model.graph.inputs if value.name == MASK_INPUT)
    sizes = list(source.shape or ())
    one = add_initializer(model, "mask_one", np.array(1.0, np.float32))
    lowest = add_initializer(model, "mask_lowest", np.array(MASKED_SCORE, np.float32))
    real = ir.node("Cast", [source], {"to": int(ir.DataType.FLOAT)}, name="mask/Cast")
    padded = ir.node("Sub", [one, real.outputs[0]], name="mask/Sub")
    scores = ir.node("Mul", [padded.outputs[0], lowest], name="mask/Mul")
    nodes = [real, padded, scores]
    if len(sizes) == 3:  # a Reshape copies an axis only to its own place, so the tokens become the fourth first
        nodes.append(_shape(model, "Unsqueeze", scores, "mask_apart", [2]))
        nodes.append(_shape(model, "Reshape", nodes[-1], "mask_rows", [-1, 1, 1, 0]))
    else:
        nodes.append(_shape(model, "Unsqueeze", scores, "mask_axes", [1, 2]))
    for node in nodes:
        node.outputs[0].name = f"{(node.name or '').replace('/', '_')}"
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        node.outputs[0].shape = ir.Shape([*sizes[:2], 1, *sizes[2:]] if node.op_type in _SHAPING else sizes)
    nodes[-1].outputs[0].shape = ir.Shape([(instead_of.shape or sizes)[0], 1, 1, sizes[-1]])
    model.graph.insert_before(model.graph[0], nodes)
    return nodes[-1].outputs[0]


def _shape(model: ir.Model, op_type: str, source: ir.Node, name: str, values: list[int]) -> ir.Node:
    constants = add_initializer(model, name, np.array(values, np.int64))
    return ir.node(op_type, [source.outputs[0], constants], name=f"mask/{op_type}")
