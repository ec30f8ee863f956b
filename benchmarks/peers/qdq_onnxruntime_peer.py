"""Ours exported for ONNX Runtime, run by it on the CPU."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from benchmarks.peers.job import Feed, Inside, Job
from benchmarks.peers.qdq_graph import ask_runner, count_graph, require_graph, write_graph
from benchmarks.peers.row import Peer, Row
from benchmarks.peers.worker import serve
from export.audit.onnxruntime_audit import audit_onnxruntime, count_int8
from export.runners.onnxruntime_runner import OnnxRuntimeRunner
from qat.recipe import Recipe

_TARGET = "onnxruntime"
_RECIPES = {"default": "tensorrt", "linear": "linear"}

ROWS = (
    Row(recipe="default", standing="as shipped", placement="own", costs=("latency",)),
    Row(recipe="linear", standing="matched", placement="linear", costs=("latency",)),
)


class QdqOnnxRuntimeModel:
    """The float graph in a session, then ours."""

    def __init__(self, job: Job, folder: Path) -> None:
        self._job = job
        self._path = folder / "qdq.onnx"
        self._runner = OnnxRuntimeRunner(require_graph(job), threads=job.threads)

    def infer(self, feed: Feed) -> NDArray[np.float32]:
        """The logits of one batch."""
        return ask_runner(self._runner, feed)

    def quantize(self, recipe: str, batches: Iterable[Feed]) -> None:
        """Quantizes the checkpoint, exports it and opens the graph."""
        chosen = Recipe.load(_RECIPES[recipe]).for_target(_TARGET)
        ir.save(write_graph(self._job, batches, chosen, target=_TARGET, precision="fp32"), self._path)
        self._runner = OnnxRuntimeRunner(self._path, threads=self._job.threads)

    def describe(self) -> Inside:
        """What the session runs in INT8."""
        found = count_graph(self._path)
        return Inside(
            weights=found.weights,
            activations=found.activations,
            products=count_int8(audit_onnxruntime(self._path)),
            file_bytes=self._path.stat().st_size,
            counted="executes",
        )


PEER = Peer(
    name="qdq-onnxruntime",
    title="qdq on ONNX Runtime",
    requirements=(),
    packages=("torch", "onnxruntime", "numpy"),
    needs_graph=True,
    rows=ROWS,
    open=QdqOnnxRuntimeModel,
)

if __name__ == "__main__":
    serve(PEER)
