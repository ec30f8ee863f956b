"""Ours exported for TensorRT for RTX: the plan of its graph; its answers are ONNX Runtime's."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from benchmarks.peers.job import Feed, Inside, Job
from benchmarks.peers.qdq_graph import ask_runner, count_graph, require_graph, write_graph
from benchmarks.peers.row import Peer, Row
from benchmarks.peers.worker import serve
from export.audit.products import read_products
from export.runners.onnxruntime_runner import OnnxRuntimeRunner
from export.targets.base import Precision
from qat.recipe import Recipe

_TARGET = "rtx"
_GRAPH = "qdq.onnx"
_RECIPES: dict[str, tuple[str, Precision]] = {
    "default fp16": ("tensorrt", "fp16"),
    "default fp32": ("tensorrt", "fp32"),
}

ROWS = (
    Row(recipe="default fp16", standing="as shipped", placement="own", weights="per_tensor", costs=("plan",)),
    Row(recipe="default fp32", standing="nearest", placement="own", weights="per_tensor", costs=("plan",)),
)


class QdqRtxModel:
    """The float graph in ONNX Runtime, then ours in ONNX Runtime, node by node as the engine was asked to compute."""

    def __init__(self, job: Job, folder: Path) -> None:
        self._job = job
        self._path = folder / _GRAPH
        self._runner = OnnxRuntimeRunner(require_graph(job), threads=job.threads)

    def infer(self, feed: Feed) -> NDArray[np.float32]:
        """The logits of one batch."""
        return ask_runner(self._runner, feed)

    def quantize(self, recipe: str, batches: Iterable[Feed]) -> None:
        """Quantizes the checkpoint, exports it and opens the graph."""
        name, precision = _RECIPES[recipe]
        chosen = Recipe.load(name).for_target(_TARGET)
        ir.save(write_graph(self._job, batches, chosen, target=_TARGET, precision=precision), self._path)
        self._runner = OnnxRuntimeRunner(self._path, optimized=False, threads=self._job.threads)

    def describe(self) -> Inside:
        """What the graph holds in INT8; the plan tells what the engine runs."""
        found = count_graph(self._path)
        planned = sum(product.complete for product in read_products(self._path).products.values())
        return Inside(
            weights=found.weights,
            activations=found.activations,
            products=planned,
            file_bytes=self._path.stat().st_size,
            counted="graph",
            graph=_GRAPH,
        )


PEER = Peer(
    name="qdq-rtx",
    title="qdq for TensorRT",
    requirements=(),
    packages=("torch", "onnxruntime", "numpy"),
    needs_graph=True,
    rows=ROWS,
    open=QdqRtxModel,
)

if __name__ == "__main__":
    serve(PEER)
