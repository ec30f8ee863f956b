"""What OpenVINO really computes in INT8: planned products against its execution graph."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from export.audit.products import Product, ProductGraph, list_products, name_node
from export.audit.runtime_audit import RuntimeAudit, RuntimeRow, count_rows
from export.graph_file import read_graph
from export.openvino_model import (
    ATTENTION,
    FLOAT_TYPES,
    PRODUCTS,
    RuntimeNode,
    compile_graph,
    explain_refusal,
    list_nodes,
    load_openvino,
    read_rest,
)
from export.valid_graph import read_valid_graph
from qat.cpu import read_int8_flags
from qat.errors import BuildError

_NO_WORK = frozenset({"Input", "Output", "Reshape"})  # a reshape is another view of the same bytes
_CONVERSIONS = frozenset({"Reorder", "Convert"})
_RENAMED = "/DequantizationMultiply"
"""What low-precision transformations add to the name of a product whose scales they moved behind it."""
_ADVICE = "export with --target openvino"


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenVinoAudit(RuntimeAudit):
    """The audit of an execution graph.

    Attributes:
        int8_attentions: attentions of which one kernel computes both products in INT8.
        kernels: the nodes that run at every inference, but for those that only look at bytes in another shape.
        conversions: those of them that change nothing but type or layout.
        float_intermediates: tensors between kernels that are float.
        rest: the type of what is not INT8.
    """

    int8_attentions: int
    kernels: int
    conversions: int
    float_intermediates: int
    rest: str


def audit_openvino(onnx_path: Path) -> OpenVinoAudit:
    """The audit of the graph as OpenVINO's CPU plugin compiles it on this machine.

    Raises:
        ExportError: no readable ONNX file, or a graph that contradicts itself.
        BuildError: OpenVINO is not installed, or refuses the graph.
    """
    read_valid_graph(onnx_path)
    model = read_graph(onnx_path, weights=True)
    for node in model.graph.node:
        node.name = name_node(node)
    graph = list_products(model)
    try:
        compiled = compile_graph(model.SerializeToString())
    except RuntimeError as error:
        raise BuildError(f"OpenVINO refuses {onnx_path}: {explain_refusal(error)}; {_ADVICE}") from error
    nodes = list_nodes(compiled)
    runs = _match(graph, model, nodes)
    rows = tuple(_describe(product, runs.get(product.name)) for product in graph.products.values())
    kernels = [node for node in nodes if not node.constant and node.kind not in _NO_WORK]
    int8 = {row.name for row in rows if not row.reason}
    return OpenVinoAudit(
        **count_rows(rows),
        int8_attentions=sum(
            scores in int8 and context in int8 and runs[context].kind == ATTENTION
            for scores, context in graph.attentions
        ),
        kernels=len(kernels),
        conversions=sum(node.kind in _CONVERSIONS for node in kernels),
        float_intermediates=sum(result in FLOAT_TYPES for node in kernels for result in node.results),
        rest=read_rest(compiled),
        operations=dict(sorted(Counter(f"{node.kind} {node.precision}" for node in kernels).items())),
        version=str(load_openvino().get_version()),
        rows=rows,
    )


def _match(graph: ProductGraph, model: onnx.ModelProto, nodes: Sequence[RuntimeNode]) -> Mapping[str, RuntimeNode]:
    """What runs each product that was found in the execution graph.

    A node that makes an output of the graph is called after the output; the first product of an attention loses its
    name where one kernel computes both. Where shapes are fixed, the scales may have left the product for the chain of
    small operations behind it: the node that has the product's own name is the product.
    """
    products = [node for node in nodes if node.kind in PRODUCTS and not node.constant]
    found = {origin.removesuffix(_RENAMED): node for node in products for origin in node.origins}
    found |= {origin: node for node in products for origin in node.origins}
    runs = {
        name: found[known]
        for node in model.graph.node
        if (name := name_node(node)) in graph.products
        for known in (name, node.output[0])
        if known in found
    }
    for scores, context in graph.attentions:
        if context in runs and runs[context].kind == ATTENTION:
            runs.setdefault(scores, runs[context])
    return runs


def _describe(product: Product, node: RuntimeNode | None) -> RuntimeRow:
    operation = "fused or folded" if node is None else f"{node.kind} {node.precision}"
    # one kernel for an attention has the type of its first operand, so each product must be planned whole as well
    int8 = node is not None and node.is_int8_product and product.complete
    reason = "" if int8 else _explain(product, operation)
    return RuntimeRow(name=product.name, planned=product.planned, operation=operation, reason=reason)


def _explain(product: Product, operation: str) -> str:
    if not product.complete:
        return product.incomplete_reason
    for operand in product.operands:
        pair = operand.dequantizer
        if pair is not None and pair.integer_type == "UINT8" and product.weight_elements is None:
            shifted = f"{operand.tensor!r} is UINT8, an attention is INT8 with signed operands only"
            return f"{operation}: {shifted}; {_ADVICE}"
    flags = read_int8_flags()
    if product.weight_elements is None and flags is not None and "avx512f" not in flags:
        return f"{operation}: OpenVINO's INT8 attention needs AVX-512, which this CPU does not have"
    return f"{operation}: all operands are quantized but OpenVINO computes it in float; {_ADVICE}"
