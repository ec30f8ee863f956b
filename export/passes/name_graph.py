"""Names people can read: axes ``batch`` and ``sequence``, nodes after the model's module they come from."""

import re
from collections import Counter

import onnx_ir as ir

_SCOPE = re.compile(r"(?:^|/)([\w.]+): [\w.]+")
_WRAPPER = "model."
_AXIS = re.compile(r"[A-Za-z_]\w*")


class NameGraph(ir.passes.InPlacePass):
    """Renames symbolic axes and nodes.

    Rules: (1) the axes of the graph's inputs get the names given, everywhere; (2) a node is called
    ``<module path>/<operator>`` after the innermost module the exporter recorded, numbered where that repeats;
    (3) names of values stay.
    """

    def __init__(self, axes: dict[str, tuple[str, ...]]) -> None:
        super().__init__()
        self.axes = axes

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """The model renamed."""
        before = _names(model)
        renamed: dict[str, str] = {}
        for value in model.graph.inputs:
            for dim, name in zip(value.shape or (), self.axes.get(value.name or "", ()), strict=False):
                if isinstance(dim, ir.SymbolicDim) and dim.value is not None:
                    renamed[dim.value] = name
        for value in _values(model):
            if value.shape is not None:
                value.shape = ir.Shape([_rename(dim, renamed) for dim in value.shape])
        seen: Counter[str] = Counter()
        for node in model.graph:
            name = f"{module_path(node)}/{node.op_type}"
            node.name = name if seen[name] == 0 else f"{name}_{seen[name]}"
            seen[name] += 1
        return ir.passes.PassResult(model, modified=_names(model) != before)

    def ensures(self, model: ir.Model) -> None:
        """Every node has a name of its own, every input the axes asked for."""
        names = Counter(node.name for node in model.graph)
        if any(count > 1 for count in names.values()):
            raise ir.passes.PostconditionError(f"node names repeat: {[name for name, n in names.items() if n > 1][:3]}")


def module_path(node: ir.Node) -> str:
    """The path of the model's module a node was traced in, ``graph`` where the exporter recorded none."""
    scopes = _SCOPE.findall(node.metadata_props.get("namespace", ""))
    inner = [scope for scope in scopes if scope.startswith(_WRAPPER)]
    return inner[-1].removeprefix(_WRAPPER) if inner else "graph"


def _rename(dim: int | ir.SymbolicDim, names: dict[str, str]) -> int | ir.SymbolicDim:
    if isinstance(dim, int) or dim.value is None:
        return dim
    return ir.SymbolicDim(_AXIS.sub(lambda axis: names.get(axis[0], axis[0]), dim.value))  # it may be 4*batch


def _names(model: ir.Model) -> list[str | None]:
    return [*(node.name for node in model.graph), *(str(value.shape) for value in _values(model))]


def _values(model: ir.Model) -> list[ir.Value]:
    return [*model.graph.inputs, *(output for node in model.graph for output in node.outputs)]
