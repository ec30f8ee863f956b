"""What ONNX Runtime really computes in INT8: planned products against its optimized graph."""

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from export.audit.products import Product, list_products, name_node
from export.audit.runtime_audit import RuntimeAudit, RuntimeRow, count_rows
from export.graph_file import read_graph
from export.valid_graph import read_valid_graph
from qat.errors import BuildError

_INT8_OPERATIONS = frozenset({
    "QLinearMatMul", "MatMulIntegerToFloat", "QGemm", "DynamicQuantizeMatMul", "QLinearConv", "MatMulInteger",
    "ConvInteger",
})  # fmt: skip
_ADVICE = "export with --target onnxruntime"
# what the optimizer adds to the name of a node that it rewrites
_ADDED = re.compile(r"^fused |/MatMulAddFusion|_token_\d+$|/duplicated$")


def audit_onnxruntime(onnx_path: Path) -> RuntimeAudit:
    """The audit of the graph as ONNX Runtime's CPU provider optimizes it on this machine.

    Raises:
        ExportError: no readable ONNX file, or a graph that contradicts itself.
        BuildError: ONNX Runtime refuses the graph.
    """
    read_valid_graph(onnx_path)
    model = read_graph(onnx_path, weights=True)
    for node in model.graph.node:
        node.name = name_node(node)
    products = list_products(model).products
    optimized = _optimize(model, onnx_path)
    runs = {_original_name(node.name): node.op_type for node in optimized if node.op_type in _INT8_OPERATIONS}
    others = {_original_name(node.name): node.op_type for node in optimized}
    static = not any(_is_dynamic(value) for value in model.graph.input)
    rows = tuple(_describe(product, runs, others, static=static) for product in products.values())
    return RuntimeAudit(
        **count_rows(rows),
        operations=_count(optimized),
        version=onnxruntime.__version__,
        rows=rows,
    )


def count_int8(audit: RuntimeAudit) -> int:
    """How many nodes of an audited graph compute a product in INT8."""
    return sum(count for operation, count in audit.operations.items() if operation in _INT8_OPERATIONS)


def _optimize(model: onnx.ModelProto, onnx_path: Path) -> Sequence[onnx.NodeProto]:
    """The nodes that a session of this machine would run."""
    known = onnxruntime.capi.onnxruntime_pybind11_state
    refusals = (
        *(known.Fail, known.InvalidGraph, known.InvalidArgument, known.NotImplemented, known.RuntimeException),
        UnicodeDecodeError,  # a message with a name in it that is no text
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # it warns that a saved graph belongs to this machine: it is read and thrown away
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(saved)
        try:
            _open_session(model, options)
        except refusals as error:
            said = " ".join(str(error).split())
            raise BuildError(f"ONNX Runtime refuses {onnx_path}: {said}; use --target onnxruntime") from error
        return list(onnx.load(saved, load_external_data=False).graph.node)


def _open_session(model: onnx.ModelProto, options: Any) -> None:
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _original_name(name: str) -> str:
    """The name of the exported node that an optimized one stems from.

    >>> _original_name("fused a/MatMul/MatMulAddFusion"), _original_name("conv_token_0")
    ('a/MatMul', 'conv')
    """
    while (stripped := _ADDED.sub("", name)) != name:
        name = stripped
    return name


def _is_dynamic(value: onnx.ValueInfoProto) -> bool:
    return any(not dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim)


def _count(nodes: Sequence[onnx.NodeProto]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for node in nodes:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return dict(sorted(counts.items()))


def _describe(product: Product, runs: Mapping[str, str], others: Mapping[str, str], *, static: bool) -> RuntimeRow:
    operation = runs.get(product.name) or others.get(product.name, "fused or folded")
    reason = "" if product.name in runs else _explain(product, operation, static=static)
    return RuntimeRow(name=product.name, planned=product.planned, operation=operation, reason=reason)


def _explain(product: Product, operation: str, *, static: bool) -> str:
    if not product.complete:
        return product.incomplete_reason
    for operand in product.operands:
        pair = operand.dequantizer
        if pair is not None and pair.scale_type != "FLOAT":
            return f"{operation} in float: {operand.tensor!r} has {pair.scale_type} scales, FP32 fuses; {_ADVICE}"
        if pair is not None and pair.readers > 1 and pair.integer_type == "INT8" and operand.weight_elements is None:
            many = f"the DequantizeLinear of {operand.tensor!r} feeds {pair.readers} nodes"
            return f"{operation} in float: {many}, an INT8 one must be private (a UINT8 one need not); {_ADVICE}"
    if product.operation in ("Conv", "ConvTranspose"):
        return f"{operation} in float: a convolution fuses only with a QuantizeLinear on its output"
    if static and operation in ("Gemm", "FusedGemm"):
        return f"{operation} in float: with fixed shapes the bias was fused first; {_ADVICE}"
    return f"{operation} in float: all operands are quantized but ONNX Runtime did not fuse it; {_ADVICE}"
