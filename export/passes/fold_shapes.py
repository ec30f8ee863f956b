"""Shape arithmetic that says what is known anyway: targets of Reshape, token types nobody gives."""

import numpy as np
import onnx_ir as ir

from export.passes.qdq_nodes import add_initializer, constant, nodes_of, operand, remove_dead

_UNIFORM = frozenset({"Slice", "Expand", "GatherElements", "Identity", "Unsqueeze"})


class FoldShapes(ir.passes.InPlacePass):
    """Drops arithmetic on sizes.

    Rules: (1) a Reshape to a computed shape gets a constant one, where every axis is a known number, is the operand's
    own at that place (ONNX writes 0), or is the only other one (-1); (2) a table of embeddings that is looked up at one
    and the same row for every token (token types that are no input) gives that row, stored, and the Add behind it
    broadcasts; (3) what computed sizes for these goes.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """The model without that arithmetic."""
        changed = [_fix_target(model, node) for node in nodes_of(model, "Reshape")]
        changed += [_store_row(model, node) for node in nodes_of(model, "Gather")]
        if any(changed):
            remove_dead(model)
        return ir.passes.PassResult(model, modified=any(changed))


def _fix_target(model: ir.Model, reshape: ir.Node) -> bool:
    source, target = operand(reshape, 0), operand(reshape, 1)
    before, after = source.shape, reshape.outputs[0].shape
    if constant(target) is not None or before is None or after is None:
        return False
    sizes = [_describe_axis(axis, size, before) for axis, size in enumerate(after)]
    if sizes.count(-1) > 1 or 0 in [size for size in after if isinstance(size, int)]:
        return False
    name = f"shape_{'x'.join(map(str, sizes))}"
    reshape.replace_input_with(1, add_initializer(model, name, np.array(sizes, np.int64)))
    reshape.attributes.pop("allowzero", None)  # with it a 0 would be no axis of the operand but an empty one
    return True


def _describe_axis(axis: int, size: int | ir.SymbolicDim, before: ir.Shape) -> int:
    """How a Reshape's target names an axis: its number, 0 for the operand's own, -1 for what remains."""
    if isinstance(size, int):
        return size
    return 0 if size.value is not None and axis < len(before) and before[axis] == size else -1


def _store_row(model: ir.Model, gather: ir.Node) -> bool:
    table, output = constant(operand(gather, 0)), gather.outputs[0]
    row = _uniform_number(operand(gather, 1))
    if row is None or constant(operand(gather, 1)) is not None or table is None or table.ndim != 2:
        return False
    if gather.attributes.get_int("axis", 0) or not all(_broadcasts(use.node, output) for use in output.uses()):
        return False
    if output.is_graph_output():
        return False
    stored = add_initializer(model, f"{operand(gather, 0).name}_row_{row}", table[row])
    ir.convenience.replace_all_uses_with(output, stored)
    return True


def _uniform_number(value: ir.Value) -> int | None:
    """The number that every element of a value is, however often it is repeated; None where there is no such one."""
    while (array := constant(value)) is None:
        node = value.producer()
        if node is None or node.op_type not in _UNIFORM or node.domain != "":
            return None
        value = operand(node, 0)
    alike = array.size > 0 and array.dtype.kind == "i" and bool((array == array.flat[0]).all())
    return int(array.flat[0]) if alike else None


def _broadcasts(node: ir.Node, value: ir.Value) -> bool:
    """Whether a node adds a value to one of the same shape, so that a row of it does as well."""
    if node.op_type != "Add" or value.shape is None:
        return False
    others = [each for each in node.inputs if each is not value]
    return len(others) == 1 and others[0] is not None and others[0].shape == value.shape
