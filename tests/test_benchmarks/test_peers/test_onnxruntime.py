"""ONNX Runtime's quantizer for real, on the tiny model: each recipe runs, and the matched ones keep their word."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.peers.job import Job
from benchmarks.peers.onnxruntime_peer import PEER, OnnxRuntimeModel
from benchmarks.peers.row import FLOAT
from benchmarks.peers.worker import answer_row
from export.audit.products import list_products
from export.runners.torch_runner import TorchRunner
from qat.checkpoint import load_checkpoint
from qat.tasks import find_task
from tests.tolerances import GRAPH_FP32

LAYERS = 2
LINEARS = 6 * LAYERS
HALVES = 2 * LAYERS
"""Products of the tiny BERT's encoder: its Linears, and the two matmuls of each attention."""


def _quantize(job: Job, recipe: str, folder: Path) -> onnx.ModelProto:
    model = OnnxRuntimeModel(job, folder)
    model.quantize(recipe, job.calibration)
    return onnx.load(model.path)


@pytest.mark.parametrize("recipe", list(PEER.by_recipe))
def test_every_recipe_answers_every_row(job: Job, recipe: str, tmp_path: Path) -> None:
    answer = answer_row(PEER, job, recipe, PEER.open(job, tmp_path))

    assert answer.logits.shape == (24, 3)
    assert np.isfinite(answer.logits).all()
    assert answer.quantization is not None
    assert min(answer.quantization.cpu_s, answer.inference.cpu_s, answer.peak_mb) > 0
    assert answer.inside is not None
    assert answer.inside.weights >= LINEARS
    assert answer.inside.products > 0


def test_a_percentile_takes_batches_of_different_lengths(job: Job, tmp_path: Path) -> None:
    shorter = {name: array[:, : array.shape[1] // 2] for name, array in job.calibration[0].items()}
    uneven = replace(job, calibration=[*job.calibration, shorter])

    assert np.isfinite(answer_row(PEER, uneven, "linear percentile", PEER.open(uneven, tmp_path)).logits).all()


def test_the_float_graph_answers_as_torch_does(job: Job, tmp_path: Path) -> None:
    answer = answer_row(PEER, job, FLOAT, PEER.open(job, tmp_path))

    with TorchRunner(load_checkpoint(job.checkpoint, find_task(job.task)).model) as torch_runner:
        expected = np.concatenate([torch_runner.infer(feed)["logits"] for feed in job.evaluation])
    assert np.abs(answer.logits - expected).max() <= GRAPH_FP32.value * np.abs(expected).max()
    assert (answer.quantization, answer.inside) == (None, None)


def test_the_linear_match_quantizes_the_linears_of_the_layers_and_nothing_else(job: Job, tmp_path: Path) -> None:
    graph = _quantize(job, "linear max", tmp_path)

    planned = [product for product in list_products(graph).products.values() if product.planned]
    assert len(planned) == LINEARS
    assert all(product.complete for product in planned)
    assert _quantized_adds(graph) == []


def test_the_full_match_adds_the_attention_and_the_residual(job: Job, tmp_path: Path) -> None:
    graph = _quantize(job, "full max", tmp_path)

    planned = [product for product in list_products(graph).products.values() if product.planned]
    assert len(planned) == LINEARS + HALVES
    assert all(product.complete for product in planned)
    assert len(_quantized_adds(graph)) == 2 * LAYERS


def test_activations_have_the_zero_point_of_symmetric_steps(job: Job, tmp_path: Path) -> None:
    graph = _quantize(job, "linear max", tmp_path).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}

    zeros = {int(constants[node.input[2]]) for node in graph.node if node.op_type == "QuantizeLinear"}

    assert zeros == {128}


def test_a_job_without_a_graph_is_refused_by_name(job: Job, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no float graph to start from: torch could not export the checkpoint"):
        OnnxRuntimeModel(replace(job, graph=None), tmp_path)


def _quantized_adds(model: onnx.ModelProto) -> list[str]:
    dequantized = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    return [node.name for node in model.graph.node if node.op_type == "Add" and dequantized.intersection(node.input)]
