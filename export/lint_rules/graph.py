"""The graph as rules see it, and what they ask of it: types, constants, what feeds what."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.audit.products import ProductGraph
from export.passes.qdq_nodes import DEQUANTIZE, QUANTIZE, constant

HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose")
# moving values about changes none of them
MOVES = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Flatten", "Slice", "Split", "Expand"})


@dataclass(frozen=True, kw_only=True)
class LintGraph:
    """One graph under the rules of one engine.

    Attributes:
        engine: what messages call the engine.
        target: what ``--target`` calls it.
        model: the graph with the types that shape inference finds, its local functions inlined.
        nodes: every node, those inside ``If``, ``Loop`` and ``Scan`` too.
        products: the products and attentions of the main body.
        named: the nodes of the main body by name.
    """

    engine: str
    target: str
    model: ir.Model
    nodes: tuple[ir.Node, ...]
    products: ProductGraph
    named: Mapping[str, ir.Node]

    @property
    def opset(self) -> int:
        """The version of ONNX's own operators."""
        return self.model.opset_imports.get("", 1)

    def of_type(self, *op_types: str) -> Iterator[ir.Node]:
        """ONNX's own nodes of these types."""
        return (node for node in self.nodes if node.op_type in op_types and node.domain == "")


def name_of(node: ir.Node) -> str:
    """The node's name, or the one TensorRT's parser gives a node without."""
    return node.name or f"node_of_{node.outputs[0].name if node.outputs else node.op_type}"


def input_of(node: ir.Node, index: int) -> ir.Value | None:
    """An input that may be left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def producer_of(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node that makes a value, where it is one of ONNX's own of these types."""
    node = None if value is None else value.producer()
    return node if node is not None and node.domain == "" and node.op_type in op_types else None


def readers_of(node: ir.Node) -> list[ir.Node]:
    """The nodes that read the first output."""
    return [use.node for use in node.outputs[0].uses()]


def is_half(value: ir.Value | None) -> bool:
    """Whether it is known to be FP16 or BF16."""
    return value is not None and value.dtype in HALF


def is_stored(value: ir.Value | None) -> bool:
    """Whether the file holds it, as an initializer or a ``Constant``; reads no data."""
    return value is not None and (value.const_value is not None or producer_of(value, "Constant") is not None)


def is_constant(value: ir.Value | None) -> bool:
    """Whether it comes from what the file holds, however it is moved, cast or quantized; reads no data."""
    while value is not None and not is_stored(value):
        node = producer_of(value, *MOVES, "Cast", QUANTIZE, DEQUANTIZE)
        value = None if node is None else input_of(node, 0)
    return value is not None


def constant_behind(value: ir.Value | None) -> NDArray[np.generic] | None:
    """The array of a value that never changes, through ``Cast`` and ``Identity``; ``None`` for any other."""
    node = producer_of(value, "Cast", "Identity")
    if node is not None:
        array = constant_behind(input_of(node, 0))
        if array is None or node.op_type == "Identity":
            return array
        with np.errstate(all="ignore"):
            return array.astype(ir.DataType(node.attributes["to"].as_int()).numpy())
    dense = producer_of(value, "Constant")
    if dense is not None and "sparse_value" in dense.attributes:
        return None
    return constant(value)


def size_of(value: ir.Value | None) -> int | None:
    """How many elements it has, ``None`` where that is not known."""
    shape = None if value is None else value.shape
    if shape is None:
        array = constant_behind(value)
        return None if array is None else int(array.size)
    sizes = [size for size in shape if isinstance(size, int)]
    return prod(sizes) if len(sizes) == len(shape) else None


def skip_moves(value: ir.Value | None, *others: str) -> ir.Value | None:
    """What a value was before it was only moved, and before ``others``."""
    while (node := producer_of(value, *MOVES, *others)) is not None:
        value = input_of(node, 0)
    return value


def dequantizer_of(value: ir.Value | None) -> ir.Node | None:
    """The DequantizeLinear behind an operand; moves and a cast after it leave the product INT8."""
    return producer_of(skip_moves(value, "Cast"), DEQUANTIZE)


def format_size(elements: int, bytes_each: int) -> str:
    """A size for a message.

    >>> format_size(23_040_000, 4), format_size(4096, 4), format_size(10, 4)
    ('92.16 MB', '16.38 KB', '40 bytes')
    """
    size = elements * bytes_each
    for unit, name in ((1e6, "MB"), (1e3, "KB")):
        if size >= unit:
            return f"{size / unit:.2f} {name}"
    return f"{size} bytes"
