"""What a lowering made of every convolution of a model: the table that audit and report show."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from export.passes.qdq_nodes import nodes_of, operand
from qat.artefacts import read_manifest

_SPAN = "/span/"
"""In the names of the nodes that stand for a span convolution (``passes.span_convolution``)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Convolution:
    """A convolution of the traced graph: the module it belongs to, what it was, and what the lowered graph holds."""

    module: str
    was: str
    became: str


def list_convolutions(traced: ir.Model, lowered: ir.Model) -> tuple[Convolution, ...]:
    """Every convolution in the order of the traced graph, then those whose kernels are activations."""
    return (*_read_convolutions(traced, lowered), *_read_spans(lowered))


def read_convolutions(artefact: Path) -> list[dict[str, str]]:
    """What the manifest of an exported folder (or of the graph in it) says of its convolutions; empty without one."""
    stored = read_manifest(artefact if artefact.is_dir() else artefact.parent).get("convolutions")
    rows = stored if isinstance(stored, list) else []
    return [{name: str(row.get(name)) for name in ("module", "was", "became")} for row in rows if isinstance(row, dict)]


def _read_convolutions(traced: ir.Model, lowered: ir.Model) -> Iterator[Convolution]:
    for node in nodes_of(traced, "Conv"):
        module = _module_of(node)
        yield Convolution(module=module, was=_describe(node), became=_describe_successors(module, lowered))


def _read_spans(lowered: ir.Model) -> Iterator[Convolution]:
    names = (node.name or "" for node in lowered.graph)
    for module in dict.fromkeys(name.partition(_SPAN)[0] for name in names if _SPAN in name):
        products = _count(f"{module}{_SPAN}", "Mul", lowered)
        yield Convolution(
            module=module, was="span convolution: a kernel for each token", became=f"sum of {products} products"
        )


def _describe(node: ir.Node) -> str:
    sizes = [size if isinstance(size, int) else 0 for size in operand(node, 1).shape or ()]
    groups = node.attributes.get_int("group", 1)
    kernel = f"kernel {sizes[-1]}" if sizes else "kernel"
    if groups > 1 and len(sizes) == 3 and groups == sizes[0] and sizes[1] == 1:
        return f"depthwise convolution, {kernel}"
    return f"convolution, {kernel}, {groups} {'group' if groups == 1 else 'groups'}"


def _describe_successors(module: str, lowered: ir.Model) -> str:
    for operation in ("Conv", "MatMul"):
        count = _count(f"{module}/", operation, lowered)
        if count:
            return operation if count == 1 else f"{count} {operation} nodes"
    products = _count(f"{module}/", "Mul", lowered)
    return f"sum of {products} products" if products else "joined with its neighbours"


def _count(prefix: str, operation: str, model: ir.Model) -> int:
    return sum((node.name or "").startswith(prefix) for node in nodes_of(model, operation))


def _module_of(node: ir.Node) -> str:
    return (node.name or "").rpartition("/")[0]
