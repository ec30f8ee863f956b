"""The matrix products and convolutions of an ONNX graph, and which of their operands are quantized."""

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import onnx

from export.graph_file import read_graph

_OPERATIONS = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "Attention"})
# moving values about changes none of them, so a DequantizeLinear behind these still feeds the product
_LAYOUT = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Flatten", "Slice", "Split", "Expand"})
# what may stand between the two products of an attention besides its softmax: scale, mask, quantizers, casts
_ATTENTION = _LAYOUT | {"Add", "Sub", "Mul", "Div", "Where", "Cast", "QuantizeLinear", "DequantizeLinear"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Dequantizer:
    """What feeds a quantized operand: the integer and scale types in ONNX's names, and how many nodes read it."""

    integer_type: str
    scale_type: str
    readers: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Operand:
    """One factor of a product; ``weight_elements`` is ``None`` for an activation."""

    tensor: str
    weight_elements: int | None
    dequantizer: Dequantizer | None

    @property
    def quantized(self) -> bool:
        """Whether a DequantizeLinear feeds it."""
        return self.dequantizer is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Product:
    """A matrix product or convolution: ``planned`` for INT8 where a DequantizeLinear feeds its weight.

    A product of two activations is planned where one feeds either. A float weight beside a quantized activation is no
    plan: the activation was quantized for others that read it.
    """

    name: str
    operation: str
    operands: tuple[Operand, ...]

    @property
    def planned(self) -> bool:
        """Whether its weight is quantized; without a weight, whether any operand is."""
        weights = [operand for operand in self.operands if operand.weight_elements is not None]
        return any(operand.quantized for operand in weights or self.operands)

    @property
    def unplanned_reason(self) -> str:
        """Why it is not planned, for a report."""
        if any(operand.quantized for operand in self.operands):
            return f"not planned: its weight {self.float_operands} is float, its input is quantized for other readers"
        return "not planned: no DequantizeLinear feeds it"

    @property
    def complete(self) -> bool:
        """Whether every operand is quantized."""
        return all(operand.quantized for operand in self.operands)

    @property
    def incomplete_reason(self) -> str:
        """Why a runtime cannot compute it in INT8 whatever it fuses, where an operand is float."""
        if not self.planned:
            return self.unplanned_reason
        return f"one operand only is quantized: {self.float_operands} stays float"

    @property
    def weight_elements(self) -> int | None:
        """The size of its weight, ``None`` for a product of two activations."""
        return next((o.weight_elements for o in self.operands if o.weight_elements is not None), None)

    @property
    def float_operands(self) -> str:
        """The operands left float, for a message."""
        return ", ".join(repr(operand.tensor) for operand in self.operands if not operand.quantized)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProductGraph:
    """Every product of a graph by node name, in order, and its attentions as (scores, context) pairs of names.

    ``hidden_size`` is the width that most of its LayerNormalizations have, ``None`` where it has none.
    """

    products: Mapping[str, Product]
    attentions: tuple[tuple[str, str], ...]
    hidden_size: int | None

    @property
    def halves(self) -> frozenset[str]:
        """The products that are one half of an attention."""
        return frozenset(name for pair in self.attentions for name in pair)


def name_node(node: onnx.NodeProto) -> str:
    """The node's name, or the one TensorRT's parser gives a node without."""
    return node.name or f"node_of_{node.output[0]}"


def read_products(onnx_path: Path) -> ProductGraph:
    """The products of the graph's main body.

    Raises:
        ExportError: no readable ONNX file.
    """
    return list_products(read_graph(onnx_path))


def list_products(model: onnx.ModelProto) -> ProductGraph:
    """The products of a loaded graph."""
    index = _index_graph(model.graph)
    products = {}
    for node in model.graph.node:
        if node.op_type in _OPERATIONS:
            count = {"Attention": 3, "Einsum": len(node.input)}.get(node.op_type, 2)
            operands = tuple(_read_operand(tensor, index) for tensor in node.input[:count])
            products[name_node(node)] = Product(name=name_node(node), operation=node.op_type, operands=operands)
    return ProductGraph(
        products=products,
        attentions=_pair_attentions(model.graph.node, index.producers, products),
        hidden_size=_find_hidden_size(model.graph.node, index),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Index:
    """A graph by tensor name: who makes it, how many read it, and the constants."""

    producers: Mapping[str, onnx.NodeProto]
    readers: Mapping[str, int]
    constants: Mapping[str, onnx.TensorProto]

    def type_of(self, tensor: str, default: str) -> str:
        constant = self.constants.get(tensor)
        return default if constant is None else onnx.TensorProto.DataType.Name(constant.data_type)


def _index_graph(graph: onnx.GraphProto) -> _Index:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                constants[node.output[0]] = attribute.t
    return _Index(
        producers={output: node for node in graph.node for output in node.output},
        readers=Counter(tensor for node in graph.node for tensor in node.input),
        constants=constants,
    )


def _find_hidden_size(nodes: Iterable[onnx.NodeProto], index: _Index) -> int | None:
    widths = [_count_elements(node.input[1], index) for node in nodes if node.op_type == "LayerNormalization"]
    found = Counter(width for width in widths if width is not None).most_common(1)
    return found[0][0] if found else None


def _read_operand(tensor: str, index: _Index) -> Operand:
    source = _skip_layout(tensor, index)
    node = index.producers.get(source)
    if node is None or node.op_type != "DequantizeLinear":
        return Operand(tensor=tensor, weight_elements=_count_elements(source, index), dequantizer=None)
    inner = index.producers.get(node.input[0])
    origin = inner.input[0] if inner is not None and inner.op_type == "QuantizeLinear" else node.input[0]
    zero = node.input[2] if len(node.input) > 2 else node.input[0]
    dequantizer = Dequantizer(
        integer_type=index.type_of(zero, "UINT8"),  # ONNX's default where no zero point says otherwise
        scale_type=index.type_of(node.input[1], "FLOAT"),
        readers=index.readers[source],
    )
    size = _count_elements(_skip_layout(origin, index), index)
    return Operand(tensor=tensor, weight_elements=size, dequantizer=dequantizer)


def _skip_layout(tensor: str, index: _Index) -> str:
    while (node := index.producers.get(tensor)) is not None and node.op_type in _LAYOUT:
        tensor = node.input[0]
    return tensor


def _count_elements(tensor: str, index: _Index) -> int | None:
    constant = index.constants.get(tensor)
    return None if constant is None else prod(constant.dims)


def _pair_attentions(
    nodes: Iterable[onnx.NodeProto], producers: Mapping[str, onnx.NodeProto], products: Mapping[str, Product]
) -> tuple[tuple[str, str], ...]:
    """Every softmax between two products of activations, with those two."""
    pairs = []
    for context in nodes:
        product = products.get(name_node(context))
        if product is None or product.weight_elements is not None:
            continue
        for tensor in context.input:
            softmax = _climb(tensor, producers, "Softmax")
            scores = None if softmax is None else _climb(softmax.input[0], producers, "MatMul")
            if scores is not None and products[name_node(scores)].weight_elements is None:
                pairs.append((name_node(scores), product.name))
                break
    return tuple(pairs)


def _climb(tensor: str, producers: Mapping[str, onnx.NodeProto], operation: str) -> onnx.NodeProto | None:
    """The nearest ``operation`` above a tensor, with nothing but the glue of an attention between."""
    seen, queue = set[str](), deque([tensor])
    while queue:
        current = queue.popleft()
        node = producers.get(current)
        if node is None or current in seen:
            continue
        if node.op_type == operation:
            return node
        seen.add(current)
        if node.op_type in _ATTENTION:
            queue.extend(node.input)
    return None
