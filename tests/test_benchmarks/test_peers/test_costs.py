"""What a row costs: timed beside its float model, planned where its graph is taken, with the error where it is not."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers.contest import Contest, run_contest
from benchmarks.peers.costs import make_timed, measure_costs
from benchmarks.peers.job import Job
from benchmarks.peers.onnxruntime_peer import PEER as ONNX_RUNTIME
from benchmarks.peers.onnxruntime_peer import OnnxRuntimeModel
from benchmarks.peers.plan import plan_graph
from benchmarks.peers.qdq_rtx_peer import QdqRtxModel
from benchmarks.peers.roster import PEERS
from benchmarks.peers.row import Row
from benchmarks.peers.worker import LATENCY_FILE, time_row
from qat.batches import iterate_batches
from tests.calibrated import encode_tiny

PLANNED = Row(recipe="r", standing="best", placement="own", costs=("plan",))


@pytest.fixture(scope="module")
def ours(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of our graph for TensorRT."""
    folder = tmp_path_factory.mktemp("ours")
    QdqRtxModel(job, folder).quantize("default fp16", job.calibration)
    return folder


def test_what_is_timed_has_the_shapes_asked_for() -> None:
    batches = list(iterate_batches(encode_tiny(16, seed=1), batch_size=8, pad_token_id=0))

    timed = make_timed(batches, ((1, 8), (4, 12)), pad_id=0)

    assert {shape: {feed["input_ids"].shape for feed in feeds} for shape, feeds in timed.items()} == {
        "1x8": {(1, 8)},
        "4x12": {(4, 12)},
    }


def test_both_sides_are_timed_in_pairs(job: Job, tmp_path: Path) -> None:
    plain, quantized = (OnnxRuntimeModel(job, tmp_path) for _ in range(2))

    found = time_row(plain, quantized, replace(job, timed={"8x8": job.calibration}, seconds=0.01))

    assert found["8x8"].keys() == {"float", "quantized"}
    assert len(found["8x8"]["float"]) == len(found["8x8"]["quantized"]) >= 4


def test_the_plan_of_our_graph_runs_every_planned_gemm_in_int8(ours: Path) -> None:
    plan = plan_graph(ours / "qdq.onnx", (4, 16))

    assert (plan["status"], plan["rest"]) == ("complete", "fp16")
    assert plan["float_gemms"] == 0  # heads this small are not fused, so nothing is asked of the attentions
    assert plan["int8_gemms"] > 0


def test_a_graph_the_builder_refuses_keeps_its_words(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no graph")

    costs = measure_costs(PLANNED, tmp_path, graph="broken.onnx", failure="", threads=1)

    assert costs.plan == {}
    assert "broken.onnx" in costs.errors["plan"]


def test_a_row_that_answered_and_could_not_be_timed_says_why(tmp_path: Path) -> None:
    costs = measure_costs(PLANNED, tmp_path, graph=None, failure="no compiler", threads=1)

    assert costs.errors == {"latency": "no compiler"}


def test_times_are_those_the_process_left(tmp_path: Path) -> None:
    times = {"1x8": {"float": [2.0], "quantized": [1.0]}}
    (tmp_path / LATENCY_FILE).write_text(json.dumps(times), encoding="utf-8")

    assert measure_costs(PLANNED, tmp_path, graph=None, failure="", threads=1).latency == times


@pytest.mark.long
def test_a_contest_with_shapes_times_the_rows_that_stand_for_a_kind(contest: Contest) -> None:
    peer = replace(ONNX_RUNTIME, requirements=(), rows=(ONNX_RUNTIME.by_recipe["linear max"],))

    (outcome,) = run_contest(replace(contest, shapes=((4, 8),), seconds=0.01), [peer])

    assert outcome.error == ""
    assert outcome.costs is not None
    assert outcome.costs.latency.keys() == {"4x8"}
    assert outcome.costs.errors == {}


@pytest.mark.parametrize(
    ("name", "weights"), [("qdq-onnxruntime", 12), ("qdq-openvino", 12), ("qdq-rtx", 8)]
)  # for rtx q, k and v are one
def test_our_graphs_answer_as_they_should_and_hold_int8(name: str, weights: int, job: Job, tmp_path: Path) -> None:
    model = PEERS[name].open(job, tmp_path)
    before = model.infer(job.evaluation[0])
    model.quantize(PEERS[name].rows[0].recipe, job.calibration)

    after, inside = model.infer(job.evaluation[0]), model.describe()

    assert before.shape == after.shape
    assert np.isfinite(after).all()
    assert inside.products >= 12
    assert inside.weights == weights
    assert inside.file_bytes is not None


@pytest.mark.parametrize("name", ["qdq-onnxruntime", "qdq-openvino", "qdq-rtx", "modelopt-onnx"])
def test_a_graph_peer_without_a_float_graph_says_so(name: str, job: Job, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no float graph to time beside: torch could not export the checkpoint"):
        PEERS[name].open(replace(job, graph=None), tmp_path)
