"""Ours exported for OpenVINO, run by it on the CPU; what is not INT8 in FP32 as beside NNCF, or in BF16 as shipped."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from benchmarks.peers.job import Feed, Inside, Job
from benchmarks.peers.qdq_graph import ask_runner, count_graph, require_graph, write_graph
from benchmarks.peers.row import Peer, Row
from benchmarks.peers.worker import serve
from export.openvino_model import Rest, compile_graph, count_int8_kernels
from export.runners.openvino_runner import OpenVinoRunner
from qat.recipe import Recipe

_TARGET = "openvino"
_RECIPES = {"default": "tensorrt", "default f32": "tensorrt", "linear f32": "linear"}

ROWS = (
    Row(
        recipe="default",
        standing="as shipped",
        placement="own",
        note="the rest in BF16 where the CPU has it",
        costs=("latency",),
    ),
    Row(recipe="default f32", standing="nearest", placement="own", costs=("latency",)),
    Row(recipe="linear f32", standing="matched", placement="linear"),
)


class QdqOpenVinoModel:
    """The float graph compiled by OpenVINO in FP32, then ours."""

    def __init__(self, job: Job, folder: Path) -> None:
        self._job = job
        self._path = folder / "qdq.onnx"
        self._rest: Rest | None = "f32"
        self._runner = OpenVinoRunner(require_graph(job), quantized=False, rest="f32", threads=job.threads)

    def infer(self, feed: Feed) -> NDArray[np.float32]:
        """The logits of one batch."""
        return ask_runner(self._runner, feed)

    def quantize(self, recipe: str, batches: Iterable[Feed]) -> None:
        """Quantizes the checkpoint, exports it and compiles the graph."""
        self._rest = "f32" if recipe.endswith("f32") else None
        chosen = Recipe.load(_RECIPES[recipe]).for_target(_TARGET)
        ir.save(write_graph(self._job, batches, chosen, target=_TARGET, precision="fp32"), self._path)
        self._runner = OpenVinoRunner(self._path, rest=self._rest, threads=self._job.threads)

    def describe(self) -> Inside:
        """What OpenVINO executes in INT8."""
        found = count_graph(self._path)
        return Inside(
            weights=found.weights,
            activations=found.activations,
            products=count_int8_kernels(compile_graph(str(self._path), rest=self._rest)),
            file_bytes=self._path.stat().st_size,
            counted="executes",
        )


PEER = Peer(
    name="qdq-openvino",
    title="qdq on OpenVINO",
    requirements=(),
    packages=("torch", "openvino", "numpy"),
    needs_graph=True,
    rows=ROWS,
    open=QdqOpenVinoModel,
)

if __name__ == "__main__":
    serve(PEER)
