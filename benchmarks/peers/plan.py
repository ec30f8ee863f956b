"""What TensorRT for RTX makes of a Q/DQ graph, whoever wrote it; run by ``python -m``: its failure is the row's.

Nobody's graph is built for dynamic shapes here: one shape shows every figure, and a build takes its time.
"""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx

from export.audit.build_audit import build_twin
from export.audit.engine_audit import audit_table
from export.audit.layer_table import read_layer_table
from export.audit.products import read_products
from export.graph_file import read_graph
from qat.artefacts import write_json
from qat.families import in_encoder_layer

SHAPE = (8, 128)
_HARDWARE = ("sm_89",)
_FLOATS = {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16"}


def plan_graph(path: Path, shape: tuple[int, int] = SHAPE) -> dict[str, Any]:
    """The audit of the graph's engine at one shape, its rows left out, with the type of what is not INT8.

    Args:
        path: the graph; its axes are named ``batch`` and ``sequence``.
        shape: (batch, sequence).

    Raises:
        BuildError: TensorRT for RTX is missing or refuses the graph.
    """
    built = build_twin(path, builder="rtx", hardware=_HARDWARE, fixed=shape)
    table = read_layer_table(built.layer_table)
    audit = audit_table(
        read_products(path),
        table,
        twin=table,
        tokens=shape[0] * shape[1],
        macs=built.macs,
        in_encoder=in_encoder_layer,
    )
    figures = {name: value for name, value in asdict(audit).items() if name != "rows"}
    return {**figures, "rest": _read_rest(path), "seconds": round(built.seconds, 2), "version": built.version}


def _read_rest(path: Path) -> str:
    """The type most of the stored floats have, which a strongly typed engine computes in."""
    sizes = dict.fromkeys(_FLOATS, 0)
    for tensor in read_graph(path).graph.initializer:
        if tensor.data_type in sizes and len(tensor.dims):
            sizes[tensor.data_type] += 1
    return _FLOATS[max(sizes, key=lambda kind: sizes[kind])]


if __name__ == "__main__":
    write_json(Path(sys.argv[2]), plan_graph(Path(sys.argv[1])))
