"""The graph's inputs, which is what a builder asks shapes for."""

from collections.abc import Iterator

import onnx_ir as ir

from export.lint_rules.base import Issue, rule, warning
from export.lint_rules.graph import LintGraph


@rule("unnamed-axis")
def check_axes(graph: LintGraph) -> Iterator[Issue]:
    """Dynamic axes have names."""
    for value in graph.model.graph.inputs:
        if value.const_value is not None:  # old graphs list their weights among the inputs
            continue
        name = str(value.name)
        remedy = "name it when exporting (batch, sequence)"
        if value.shape is None:
            yield warning(name, f"the input '{name}' has no shape: {graph.engine} cannot tell its axes; {remedy}")
            continue
        axes = [i for i, size in enumerate(value.shape) if size == -1 or _is_unnamed(size)]
        if axes:
            yield warning(
                name,
                f"the input '{name}' has dynamic axes without a name ({', '.join(map(str, axes))}): {graph.engine} "
                f"cannot know that inputs share a size, and shapes cannot be set by name; {remedy}",
            )


def _is_unnamed(size: int | ir.SymbolicDim) -> bool:
    return isinstance(size, ir.SymbolicDim) and size.value is None
