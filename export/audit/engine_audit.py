"""What an engine really computes in INT8: planned products against the kernels of its layer table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from export.audit.kernels import ProductKernel, find_product_kernels
from export.audit.layer_table import EngineLayer, LayerTable
from export.audit.products import Product, ProductGraph

_MEGABYTE = 1e6
LEAST_LAYER_BYTES = 22.0
"""The fewest ``layer_bytes`` an INT8 encoder moves, every elementwise kernel fused into the product before it.

Reads and writes in hidden units: q, k and v 1 + 3, attention 3 + 1, its output 1 + 1 and the residual 1, the
feed-forward block of four times the width 1 + 4 and 4 + 1 and the residual 1.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditRow:
    """One product kernel: what it is called, whether INT8 was planned, what it runs in, and why it is not INT8.

    ``kind`` is ``gemm``, ``convolution`` or ``attention``; ``dtype`` the type it computes in; ``nodes`` its ONNX nodes.
    ``reason`` is empty where the kernel is INT8.
    """

    name: str
    planned: bool
    kind: str
    dtype: str
    reason: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineAudit:
    """An engine's kernels, counted; with status ``unavailable`` nothing is known and every number is 0 or ``None``.

    Products count by kernel, so merged q, k and v projections are one; convolutions count as GEMMs. ``int8_gemms``
    are INT8, ``float_gemms`` were planned and are not, ``unplanned_gemms`` are the rest. ``int8_attentions`` and
    ``float_attentions`` are fused, ``split_attentions`` run as two GEMMs and a softmax. Megabytes are 10^6 bytes at
    the twin's shape: ``activation_mb`` of every kernel's inputs and outputs, ``weight_mb`` of every constant once.
    ``layer_bytes`` are the activations' bytes by tokens, hidden size and attentions, that is layers;
    ``layer_bytes_to_least`` is how far that lies above ``LEAST_LAYER_BYTES``.
    ``int8_mac_share`` is the share, 0 to 1, of the encoder's multiply-accumulates that run in INT8.
    """

    status: Literal["complete", "unavailable"]
    reason: str
    kernels: int
    int8_gemms: int
    float_gemms: int
    unplanned_gemms: int
    int8_attentions: int
    float_attentions: int
    split_attentions: int
    activation_mb: float | None
    layer_bytes: float | None
    layer_bytes_to_least: float | None
    weight_mb: float | None
    int8_mac_share: float | None
    rows: tuple[AuditRow, ...]

    @property
    def as_planned(self) -> bool:
        """Whether the table was read, something is INT8, nothing planned runs in float and no attention is split."""
        losses = [row for row in self.rows if row.planned and row.reason]
        return self.status == "complete" and self.int8_gemms > 0 and not losses and not self.split_attentions


def unavailable_audit(reason: str) -> EngineAudit:
    """The audit of an engine that says nothing of itself: never a pass."""
    return EngineAudit(
        status="unavailable", reason=f"audit unavailable: {reason}", kernels=0, int8_gemms=0, float_gemms=0,
        unplanned_gemms=0, int8_attentions=0, float_attentions=0, split_attentions=0, activation_mb=None,
        layer_bytes=None, layer_bytes_to_least=None, weight_mb=None, int8_mac_share=None, rows=(),
    )  # fmt: skip


def audit_table(
    graph: ProductGraph,
    table: LayerTable,
    *,
    twin: LayerTable,
    tokens: int,
    macs: Mapping[str, int],
    in_encoder: Callable[[str], bool],
) -> EngineAudit:
    """The audit of one engine from its layer table.

    Args:
        graph: the products of the ONNX graph that the engine was built from.
        table: the engine's layers; without them the audit is unavailable.
        twin: the layers of the same graph at one fixed shape, for the bytes.
        tokens: of all rows at that shape.
        macs: multiply-accumulates by ONNX node at that shape.
        in_encoder: whether an ONNX node lies inside the transformer layers.
    """
    if table.reason is not None:
        return unavailable_audit(table.reason)
    if not any(layer.metadata for layer in table.layers):
        return unavailable_audit("the layer table names no ONNX node")
    kernels = find_product_kernels(graph, table.layers)
    owned = {product.name for kernel in kernels for product in kernel.products}
    missing = [product for name, product in graph.products.items() if name not in owned]
    rows = (
        *(_describe_kernel(kernel, graph.halves) for kernel in kernels),
        *(_describe_missing(product) for product in missing),
    )
    attentions = [row for row in rows if row.kind == "attention"]
    gemms = [row for row in rows if row.kind != "attention"]
    activation_mb = sum_activations(twin.layers)
    layer_bytes = _divide_bytes(activation_mb, graph, tokens)
    return EngineAudit(
        status="complete",
        reason="" if twin.reason is None else f"no bytes: {twin.reason}",
        kernels=sum(layer.is_kernel for layer in table.layers),
        int8_gemms=sum(not row.reason for row in gemms),
        float_gemms=sum(bool(row.reason) and row.planned for row in gemms),
        unplanned_gemms=sum(bool(row.reason) and not row.planned for row in gemms),
        int8_attentions=sum(not row.reason for row in attentions),
        float_attentions=sum(bool(row.reason) for row in attentions),
        split_attentions=len(graph.attentions) - sum(_counts_pair(row, graph) for row in attentions),
        activation_mb=activation_mb,
        layer_bytes=layer_bytes,
        layer_bytes_to_least=None if layer_bytes is None else layer_bytes - LEAST_LAYER_BYTES,
        weight_mb=_sum_weights(twin.layers),
        int8_mac_share=_share_macs(graph, rows, macs, in_encoder),
        rows=rows,
    )


def _counts_pair(row: AuditRow, graph: ProductGraph) -> int:
    return sum(set(row.nodes).issuperset(pair) for pair in graph.attentions)


def _describe_kernel(kernel: ProductKernel, halves: frozenset[str]) -> AuditRow:
    return AuditRow(
        name=kernel.layer.name,
        planned=any(product.planned for product in kernel.products),
        kind=kernel.kind,
        dtype="Int8" if kernel.int8 else kernel.float_type,
        reason="" if kernel.int8 else _explain_float(kernel, halves),
        nodes=tuple(product.name for product in kernel.products),
    )


def _explain_float(kernel: ProductKernel, halves: frozenset[str]) -> str:
    products, dtype = kernel.products, kernel.float_type
    planned = any(product.planned for product in products)
    missing = ", ".join(product.float_operands for product in products if not product.complete)
    if kernel.kind == "attention":
        if not planned:
            return f"not planned: fused attention in {dtype}, no DequantizeLinear feeds q, k, v or probs"
        if not missing:
            return f"q, k, v and probs are quantized but the engine runs the fused attention in {dtype}"
        return f"fused attention in {dtype}: {missing} not quantized"
    split = not halves.isdisjoint(product.name for product in products)
    hint = "; attention is not fused: quantize q, k, v and probs, or none of them" if split else ""
    if not planned:
        return f"{products[0].unplanned_reason}{hint}"
    if missing:
        return f"one operand only is quantized, {missing} stays {dtype}{hint}"
    return f"every operand is quantized but the engine runs it in {dtype}{hint}"


def _describe_missing(product: Product) -> AuditRow:
    return AuditRow(
        name=product.name,
        planned=product.planned,
        kind="attention" if product.operation == "Attention" else "gemm",
        dtype="unknown",
        reason="no kernel of the layer table names this node",
        nodes=(product.name,),
    )


def sum_activations(layers: Sequence[EngineLayer]) -> float | None:
    """The megabytes that all kernels read and write, constants apart; ``None`` where one is unknown, or no kernel."""
    sizes = [layer.activation_bytes for layer in layers if layer.is_kernel]
    known = [size for size in sizes if size is not None]
    return sum(known) / _MEGABYTE if sizes and len(known) == len(sizes) else None


def _divide_bytes(megabytes: float | None, graph: ProductGraph, tokens: int) -> float | None:
    """``None`` where the bytes, the hidden size or the layers are not known."""
    units = tokens * (graph.hidden_size or 0) * len(graph.attentions)
    return None if megabytes is None or not units else megabytes * _MEGABYTE / units


def _sum_weights(layers: Sequence[EngineLayer]) -> float | None:
    sizes = {tensor.name: tensor.bytes for layer in layers for tensor in layer.constants}
    known = [size for size in sizes.values() if size is not None]
    return sum(known) / _MEGABYTE if sizes and len(known) == len(sizes) else None


def _share_macs(
    graph: ProductGraph, rows: Sequence[AuditRow], macs: Mapping[str, int], in_encoder: Callable[[str], bool]
) -> float | None:
    """``None`` where the encoder is empty or the work of one of its products is unknown."""
    encoder = [name for name in graph.products if in_encoder(name)]
    if not encoder or any(name not in macs for name in encoder):
        return None
    quantized = {node for row in rows if not row.reason for node in row.nodes}
    return sum(macs[name] for name in encoder if name in quantized) / sum(macs[name] for name in encoder)
