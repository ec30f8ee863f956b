"""Ours as it is deployed: the float model wrapped, calibrated and exported for a target, and the graph run."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from benchmarks.peers.job import Feed, Job
from calibration.quantize import quantize_model
from calibration.settings import CalibrationSettings
from export.exported import Lowering, lower_graph, trace_model
from export.graph_file import read_graph
from export.runners.base import Runner
from export.targets import find_target
from export.targets.base import Precision
from qat.checkpoint import load_checkpoint
from qat.huggingface import quantization_config
from qat.recipe import Recipe
from qat.tasks import find_task

_INTEGERS = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)


class GraphCounts(NamedTuple):
    """INT8 weights stored in an ONNX graph, and its QuantizeLinear nodes."""

    weights: int
    activations: int


def require_graph(job: Job) -> Path:
    """The float graph of a job.

    Raises:
        RuntimeError: it was not made.
    """
    if job.graph is None:
        raise RuntimeError("no float graph to time beside: torch could not export the checkpoint")
    return job.graph


def write_graph(job: Job, batches: Iterable[Feed], recipe: Recipe, *, target: str, precision: Precision) -> ir.Model:
    """Our graph of the job's checkpoint: quantized with the default settings, lowered for the target.

    Args:
        job: for the checkpoint.
        batches: to calibrate on.
        recipe: what is quantized.
        target: of the checkpoint and of the graph.
        precision: of what is not INT8.
    """
    torch.set_num_threads(job.threads)
    model = load_checkpoint(job.checkpoint, find_task(job.task)).model.eval()
    feeds = list(batches)
    tensors = ({name: torch.from_numpy(array) for name, array in feed.items()} for feed in feeds)
    quantize_model(model, tensors, recipe, target=target, settings=CalibrationSettings())
    quantization_config(model).task = {"name": job.task}
    traced = trace_model(model, tuple(feeds[0]))
    return lower_graph(traced, Lowering(find_target(target), precision))


def count_graph(path: Path) -> GraphCounts:
    """What an ONNX graph of ours holds in INT8."""
    graph = read_graph(path).graph
    return GraphCounts(
        weights=sum(tensor.data_type in _INTEGERS and len(tensor.dims) > 1 for tensor in graph.initializer),
        activations=sum(node.op_type == "QuantizeLinear" for node in graph.node),
    )


def ask_runner(runner: Runner, feed: Feed) -> NDArray[np.float32]:
    """The logits of one batch."""
    return np.asarray(runner.infer(feed)["logits"], dtype=np.float32)
