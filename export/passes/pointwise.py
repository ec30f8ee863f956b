"""Convolutions of kernel size 1 as passes read and replace them: products over channels that only the layout hides."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.passes.qdq_nodes import (
    DEQUANTIZE,
    QUANTIZE,
    add_initializer,
    constant,
    hand_over,
    nodes_of,
    operand,
    zero_point,
)

SWAP = (0, 2, 1)
"""The permutation between ``(batch, channels, tokens)`` and ``(batch, tokens, channels)``."""

Sizes = Sequence[int | ir.SymbolicDim | None]
_Attributes = Mapping[str, int | Sequence[int]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pointwise:
    """A Conv of kernel size 1 over ``(batch, channels, tokens)``.

    Attributes:
        node: the Conv.
        matrix: its weight, ``(output channels, input channels of a group)``: INT8 levels, or floats.
        name: what the weight is called.
        scale: the weight's scale where it is INT8, one for all or one for each output channel.
        bias: ``(output channels,)``; None where it has none.
        groups: into how many its channels are cut.
    """

    node: ir.Node
    matrix: NDArray[np.generic]
    name: str
    scale: ir.Value | None
    bias: NDArray[np.generic] | None
    groups: int

    @property
    def channel_scales(self) -> NDArray[np.generic] | None:
        """The scales where each output channel has one, None where one serves the weight or it is float."""
        scales = constant(self.scale)
        return scales if scales is not None and scales.size > 1 else None


def find_pointwise(model: ir.Model) -> list[Pointwise]:
    """Every convolution that is a product over channels, in order."""
    found = (_read_pointwise(node) for node in nodes_of(model, "Conv"))
    return [each for each in found if each is not None]


def require_folded(model: ir.Model) -> None:
    """Passes when no convolution's weight is still quantized in the graph.

    Raises:
        ir.passes.PreconditionError: one is.
    """
    for node in nodes_of(model, "Conv"):
        source = operand(node, 1).producer()
        levels = operand(source, 0).producer() if source is not None and source.op_type == DEQUANTIZE else None
        if levels is not None and levels.op_type == QUANTIZE:
            raise ir.passes.PreconditionError(f"'{node.name}' quantizes its weight in the graph: fold weights first")


def _read_pointwise(node: ir.Node) -> Pointwise | None:
    """What a Conv is, None where it looks at neighbours, skips tokens, or its weight is no constant."""
    weight, scale = operand(node, 1), None
    source = weight.producer()
    if source is not None and source.op_type == DEQUANTIZE:
        weight, scale = operand(source, 0), operand(source, 1)
        scales = constant(scale)
        if scales is None or (scales.size > 1 and source.attributes.get_int("axis", 1) != 0):
            return None
    matrix = constant(weight)
    moves = any(step != 1 for step in node.attributes.get_ints("strides", [])) or any(
        node.attributes.get_ints("pads", [])
    )
    if matrix is None or matrix.ndim != 3 or matrix.shape[2] != 1 or moves:
        return None
    bias = None
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = constant(node.inputs[2])
        if bias is None:
            return None
    return Pointwise(
        node=node,
        matrix=matrix[:, :, 0],
        name=weight.name or "weight",
        scale=scale,
        bias=bias,
        groups=node.attributes.get_int("group", 1),
    )


@dataclass(slots=True)
class Replacement:
    """New nodes before a pointwise convolution, each named after it; ``value`` is the last one's output."""

    model: ir.Model
    found: Pointwise
    value: ir.Value

    @classmethod
    def start(cls, model: ir.Model, found: Pointwise) -> "Replacement":
        """The convolution's input with its tokens first."""
        source = operand(found.node, 0)
        batch, channels, tokens = list(source.shape or (None, None, None))
        begun = cls(model, found, source)
        begun.then("Transpose", (batch, tokens, channels), perm=SWAP)
        return begun

    @property
    def rows(self) -> Sizes:
        """Batch and tokens."""
        batch, _, tokens = list(operand(self.found.node, 0).shape or (None, None, None))
        return (batch, tokens)

    def then(self, operation: str, sizes: Sizes, *inputs: ir.Value, **attributes: int | Sequence[int]) -> None:
        """One more node on ``value``, whose output has these sizes."""
        self.value = self.add(operation, [self.value, *inputs], sizes, attributes)

    def add(self, operation: str, inputs: Sequence[ir.Value], sizes: Sizes, attributes: _Attributes) -> ir.Value:
        """The output of a node on any inputs, typed like the convolution's."""
        node = make_node(self.model, operation, inputs, attributes, like=self.found.node)
        node.outputs[0].shape, node.outputs[0].type = ir.Shape(sizes), self.found.node.outputs[0].type
        self.model.graph.insert_before(self.found.node, node)
        return node.outputs[0]

    def factor(self, array: NDArray[np.generic], suffix: str, scale: ir.Value | None) -> ir.Value:
        """A constant to multiply by, behind a DequantizeLinear where it is INT8; scales lie along the last axis."""
        stored = add_initializer(self.model, f"{self.found.name}_{suffix}", array)
        scales = constant(scale)
        if scale is None or scales is None:
            return stored
        zero = zero_point(self.model, np.int8, 0, scales.shape)
        axis = {"axis": array.ndim - 1} if scales.size > 1 else {}
        return self.add(DEQUANTIZE, [stored, scale, zero], array.shape, axis)

    def finish(self) -> None:
        """Adds the bias, moves channels back and hands everything to the convolution's readers."""
        (batch, tokens), channels = self.rows, len(self.found.matrix)
        if self.found.bias is not None:
            bias = add_initializer(self.model, f"{self.found.name}_bias", self.found.bias)
            self.then("Add", (batch, tokens, channels), bias)
        self.then("Transpose", (batch, channels, tokens), perm=SWAP)
        hand_over(self.found.node.outputs[0], self.value)


def make_node(
    model: ir.Model, operation: str, inputs: Sequence[ir.Value], attributes: _Attributes, *, like: ir.Node
) -> ir.Node:
    """A node that is not in the graph yet, in the module of ``like``, under a name that is free."""
    path, taken = (like.name or "").rpartition("/")[0], {node.name for node in model.graph}
    name, number = f"{path}/{operation}", 0
    while name in taken:
        number += 1
        name = f"{path}/{operation}_{number}"
    node = ir.node(operation, inputs, attributes, name=name)
    node.outputs[0].name = f"{name}_output"
    return node
