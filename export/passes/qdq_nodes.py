"""What passes ask of a graph with QuantizeLinear and DequantizeLinear: constants, scales, who feeds what."""

from collections.abc import Iterator
from itertools import count

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


def constant(value: ir.Value | None) -> NDArray[np.generic] | None:
    """The array behind a value that never changes, None for one that does."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def constant_shape(value: ir.Value) -> tuple[int, ...]:
    """The shape of a value that never changes.

    Raises:
        ir.passes.PreconditionError: it does change.
    """
    array = constant(value)
    if array is None:
        raise ir.passes.PreconditionError(f"'{value.name}' is not a constant")
    return array.shape


def operand(node: ir.Node, index: int) -> ir.Value:
    """A node's input that must be there.

    Raises:
        ir.passes.PreconditionError: the node leaves it out.
    """
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        raise ir.passes.PreconditionError(f"{node.op_type} '{node.name}' has no input {index}")
    return value


def nodes_of(model: ir.Model, *op_types: str) -> Iterator[ir.Node]:
    """The graph's nodes of these types; a copy, so that the graph may change meanwhile."""
    yield from [node for node in model.graph if node.op_type in op_types and node.domain == ""]


def quantizes_constant(node: ir.Node) -> bool:
    """Whether a QuantizeLinear quantizes something that never changes: a weight."""
    return constant(operand(node, 0)) is not None


def add_initializer(model: ir.Model, name: str, array: NDArray[np.generic]) -> ir.Value:
    """A new initializer of the graph under a name that is free, or the one of that name with the same content."""
    known = model.graph.initializers.get(name)
    if known is not None:
        present = constant(known)
        if present is not None and present.dtype == array.dtype and np.array_equal(present, array):
            return known
        name = next(free for n in count(1) if (free := f"{name}_{n}") not in model.graph.initializers)
    tensor = ir.tensor(np.asarray(array, order="C"), name=name)  # ascontiguousarray would make a scalar a vector
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    model.graph.register_initializer(value)
    return value


def zero_point(model: ir.Model, dtype: type[np.integer], value: int, shape: tuple[int, ...]) -> ir.Value:
    """A constant zero point, one initializer for each type, value and shape."""
    size = "x".join(map(str, shape)) or "scalar"
    return add_initializer(model, f"zero_point_{np.dtype(dtype).name}_{value}_{size}", np.full(shape, value, dtype))


def hand_over(old: ir.Value, new: ir.Value) -> None:
    """Lets whoever reads ``old`` read ``new``; where ``old`` is an output of the graph, ``new`` is, under its name."""
    if old.is_graph_output():
        name, old.name = old.name, f"{old.name}_replaced"
        new.name = name
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


def remove_dead(model: ir.Model) -> None:
    """Drops nodes and initializers nobody reads any more."""
    RemoveUnusedNodesPass()(model)
