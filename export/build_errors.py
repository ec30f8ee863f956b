"""What a builder refuses, told with the ONNX node and the layer of the model that it came from."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from export.graph_file import read_graph


def explain_parse(onnx_path: Path, faults: Sequence[Any]) -> str:
    """One line on the first of the parser's faults: the node, its operator and model layer, what it said."""
    if not faults:
        return f"the builder cannot read {onnx_path} and does not say why; export it again"
    first = faults[0]
    more = f" (and {len(faults) - 1} more nodes)" if len(faults) > 1 else ""
    return (
        f"the builder refuses {_describe(first.node_name(), first.node_operator())} of {onnx_path}: "
        f"{_one_line(first.desc())}{more}; export it again with --target rtx or tensorrt"
    )


def explain_build(onnx_path: Path, builder: str, errors: Sequence[str], features: Sequence[str]) -> str:
    """One line on a build that failed: the node that the builder's errors name, if any, and what it said.

    Args:
        onnx_path: the graph.
        builder: who refused it.
        errors: what it logged, in order.
        features: what was asked for beyond a plain engine; a builder may offer one and lack it on this machine.
    """
    operators = {node.name: node.op_type for node in read_graph(onnx_path).graph.node if node.name}
    named = [(name, text) for text in errors if (name := _find_name(text, list(operators))) is not None]
    where, said = "", errors[-1] if errors else "it does not say why"
    if named:
        name, said = named[0]
        where = f" at {_describe(name, operators[name])}"
    asked = f" as {' and '.join(features)} (leave that out, if this machine's builder lacks it)" if features else ""
    return f"the {builder} builder cannot build {onnx_path}{asked}{where}: {_one_line(said)}; run qdq lint on it"


def model_layer(node: str) -> str | None:
    """The path of the model's layer that a node is named after, ``None`` where its name holds none.

    >>> model_layer("bert.encoder.layer.0.attention.self/MatMul_1")
    'bert.encoder.layer.0.attention.self'
    >>> model_layer("graph/Cast"), model_layer("MatMul_12")
    (None, None)
    """
    path = node.rpartition("/")[0].strip("/")
    return None if path in ("", "graph") else path


def _describe(node: str, operator: str) -> str:
    layer = model_layer(node)
    return f"node {node!r} ({operator}{'' if layer is None else f', model layer {layer!r}'})"


def _find_name(text: str, names: Sequence[str]) -> str | None:
    """The longest of the names that stands in a text as a whole.

    >>> _find_name("layer a/MatMul_1: no implementation", ["a/MatMul", "a/MatMul_1"])
    'a/MatMul_1'
    >>> _find_name("no implementation", ["a/MatMul"]) is None
    True
    """
    found = [name for name in names if re.search(rf"(?<![\w./]){re.escape(name)}(?![\w/]|\.\w)", text)]
    return max(found, key=len, default=None)


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()
