"""A convolution over tokens as a sum of products with shifted slices: elementwise, so that engines fuse it whole."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from export.passes.qdq_nodes import add_initializer

_END = int(np.iinfo(np.int64).max)
Shape = Sequence[int | ir.SymbolicDim | None]


class NodeChain:
    """New nodes in order, named ``<path>/<name>``, with outputs of one type."""

    def __init__(self, model: ir.Model, path: str, like: ir.Value) -> None:
        self.model = model
        self.path = path
        self.type = like.type
        self.nodes: list[ir.Node] = []

    def indices(self, *numbers: int) -> ir.Value:
        """A constant of integers, one initializer for each content."""
        name = "indices_" + "_".join("end" if number == _END else str(number) for number in numbers)
        return add_initializer(self.model, name, np.array(numbers, np.int64))

    def add(
        self,
        name: str,
        inputs: Sequence[ir.Value],
        shape: Shape,
        attributes: Mapping[str, int | Sequence[int]] | None = None,
    ) -> ir.Value:
        """The output of a new node; its operator is what ``name`` begins with."""
        node = ir.node(name.partition("_")[0], inputs, attributes or {}, name=f"{self.path}/{name}")
        node.outputs[0].name = f"{self.path}/{name}_output"
        node.outputs[0].type, node.outputs[0].shape = self.type, ir.Shape(shape)
        self.nodes.append(node)
        return node.outputs[0]

    def slice(self, name: str, value: ir.Value, bounds: tuple[int, int], axis: int, shape: Shape) -> ir.Value:
        """``value[start:end]`` along ``axis``."""
        start, end = bounds
        return self.add(name, [value, self.indices(start), self.indices(end), self.indices(axis)], shape)


def sum_shifted(chain: NodeChain, values: ir.Value, factors: Sequence[ir.Value]) -> ir.Value:
    """``sum_k factors[k] * values[:, t + k - K // 2]``, zero outside the tokens, shaped as ``values``.

    Args:
        chain: gets the nodes.
        values: ``(batch, tokens, ...)``; batch and tokens stay free.
        factors: an odd number K of values that broadcast to ``values``.
    """
    shape = list(values.shape or ())
    side = len(factors) // 2
    margins = [side if axis == 1 else 0 for axis in range(len(shape))]
    padded = chain.add("Pad", [values, chain.indices(*margins, *margins)], [shape[0], None, *shape[2:]])
    total = values
    for k, factor in enumerate(factors):
        left = k - (len(factors) - 1)
        shifted = chain.slice(f"Slice_{k}", padded, (k, left or _END), 1, shape)
        product = chain.add(f"Mul_{k}", [factor, shifted], shape)
        total = chain.add(f"Add_{k}", [total, product], shape) if k else product
    return total
