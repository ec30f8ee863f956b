"""NVIDIA ModelOpt's torch -> ONNX export: the model it fake-quantized as a Q/DQ graph, run by ONNX Runtime on the CPU.

The export is the one of its documentation and examples, ``modelopt.torch._deploy.utils.get_onnx_bytes_and_metadata``.
With the rest in FP16 its graph has FP32 weights beside FP16 scales, which ONNX Runtime refuses: such a row answers
as ModelOpt's torch model does, and its graph is for the engine's plan.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.job import Feed, Inside, Job
from benchmarks.peers.modelopt_peer import PEER as MODELOPT
from benchmarks.peers.modelopt_peer import ModelOptModel
from benchmarks.peers.onnxruntime_peer import count_executed, count_graph, open_session
from benchmarks.peers.row import Peer, Row
from benchmarks.peers.worker import serve

_GRAPH = "modelopt.onnx"
_HALF = " fp16"

ROWS = (
    Row(recipe="INT8_DEFAULT_CFG", standing="as shipped", placement="own", costs=("plan",)),
    Row(recipe="INT8_SMOOTHQUANT_CFG fp16", standing="best", placement="own", costs=("plan",)),
    Row(recipe="linear max", standing="matched", placement="linear", costs=("latency", "plan")),
    Row(recipe="full but probs max fp16", standing="nearest", placement="own", costs=("plan",)),
)


class ModelOptGraphModel:
    """The float graph in a session, then ModelOpt's graph, or its torch model beside a graph of FP16."""

    def __init__(self, job: Job, folder: Path) -> None:
        if job.graph is None:
            raise RuntimeError("no float graph to time beside: torch could not export the checkpoint")
        self._job = job
        self._folder = folder
        self._path = folder / _GRAPH
        self._session = open_session(job.graph, threads=job.threads)
        self._simulated: ModelOptModel | None = None

    def infer(self, feed: Feed) -> NDArray[np.float32]:
        """The logits of one batch."""
        if self._simulated is not None:
            return self._simulated.infer(feed)
        names = [value.name for value in self._session.get_inputs()]
        (logits,) = self._session.run(None, {name: feed[name] for name in names})
        return np.asarray(logits, dtype=np.float32)

    def quantize(self, recipe: str, batches: Iterable[Feed]) -> None:
        """Quantizes the checkpoint, exports it and opens the graph; the rest in FP16 where the recipe says so."""
        from modelopt.torch._deploy.utils import OnnxBytes, get_onnx_bytes_and_metadata

        feeds, half = list(batches), recipe.endswith(_HALF)
        opened = ModelOptModel(self._job, self._folder)
        opened.model.set_attn_implementation("eager")
        opened.quantize(recipe.removesuffix(_HALF), feeds)
        made, _ = get_onnx_bytes_and_metadata(
            opened.model,
            _to_tensors(feeds[0]),
            dynamic_axes={name: {0: "batch", 1: "sequence"} for name in feeds[0]},
            weights_dtype="fp16" if half else "fp32",
        )
        (graph,) = OnnxBytes.from_bytes(made).onnx_model.values()
        self._path.write_bytes(graph)
        if half:
            self._simulated = opened
        else:
            self._session = open_session(self._path, threads=self._job.threads)

    def describe(self) -> Inside:
        """What the session runs in INT8, or the torch model simulates, and the size of the graph."""
        size = self._path.stat().st_size
        if self._simulated is not None:
            return replace(self._simulated.describe(), file_bytes=size, graph=_GRAPH)
        weights, activations = count_graph(self._path)
        return Inside(
            weights=weights,
            activations=activations,
            products=count_executed(self._path, self._folder),
            file_bytes=size,
            counted="executes",
            graph=_GRAPH,
        )


def _to_tensors(feed: Feed) -> dict[str, Any]:
    import torch

    return {name: torch.from_numpy(array) for name, array in feed.items()}


PEER = Peer(
    name="modelopt-onnx",
    title="NVIDIA ModelOpt, torch to ONNX",
    requirements=MODELOPT.requirements,
    packages=("nvidia-modelopt", "torch", "onnx", "onnxruntime", "numpy"),
    needs_graph=True,
    rows=ROWS,
    open=ModelOptGraphModel,
    environment=MODELOPT.home,
    snippets=("modelopt_onnx.py",),
)

if __name__ == "__main__":
    serve(PEER)
