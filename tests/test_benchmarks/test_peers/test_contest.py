"""Rows run in processes of their own, answers are judged in the order of the file, what fails keeps its error."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers.contest import Contest, Outcome, run_contest, run_module
from benchmarks.peers.onnxruntime_peer import PEER as ONNX_RUNTIME
from benchmarks.peers.qdq_peer import PEER as OURS
from benchmarks.peers.roster import PEERS
from benchmarks.peers.row import FLOAT, Peer, Row
from benchmarks.peers.score import unpack_rows
from export.runners.torch_runner import TorchRunner
from qat.batches import iterate_batches
from qat.checkpoint import load_checkpoint
from qat.errors import CheckpointError, DataError
from qat.tasks import find_task
from tests.calibrated import encode_tiny
from tests.test_command_line.calling import Workspace

ROWS = 32


def _only(peer: Peer, *recipes: str) -> Peer:
    return replace(peer, requirements=(), rows=tuple(row for row in peer.rows if row.recipe in recipes))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def outcomes(contest: Contest, kept: Path) -> dict[str, Outcome]:
    broken = replace(_only(OURS), rows=(Row(recipe="no such recipe", standing="matched", placement="linear"),))
    unable = replace(_only(OURS), rows=(Row(recipe="u", standing="matched", placement="linear", cannot="no way"),))
    elsewhere = replace(_only(PEERS["modelopt"], "linear max"), requirements=("torch",))
    peers = [_only(OURS, FLOAT), _only(ONNX_RUNTIME, "linear max"), broken, unable, elsewhere]
    return {outcome.row.recipe + outcome.peer: outcome for outcome in run_contest(replace(contest, keep=kept), peers)}


def test_the_float_row_is_judged_in_the_order_of_the_file(outcomes: dict[str, Outcome], workspace: Workspace) -> None:
    rows = encode_tiny(ROWS, seed=2)
    with TorchRunner(load_checkpoint(workspace.checkpoint, find_task("text-classification")).model) as runner:
        batches = list(iterate_batches(rows, batch_size=ROWS, pad_token_id=0))
        found = runner.infer(batches[0].inputs)["logits"].argmax(axis=-1)

    expected = found == np.array([row["labels"] for row in rows])

    outcome = outcomes[FLOAT + "qdq"]
    assert unpack_rows(outcome.correct).tolist() == expected.tolist()
    assert outcome.accuracy == expected.mean()


def test_a_graph_quantizer_gets_the_float_graph(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["linear maxonnxruntime"]

    assert outcome.error == ""
    assert len(outcome.correct) == ROWS
    assert outcome.facts["inside"]["products"] == 12
    assert outcome.facts["versions"].keys() == {"python", "onnxruntime", "onnx", "numpy"}


def test_the_model_of_a_graph_quantizer_is_kept(outcomes: dict[str, Outcome], kept: Path) -> None:
    assert {folder.name for folder in kept.iterdir()} == {"qdq-float", "onnxruntime-linear-max"}
    sizes = {model.stat().st_size for model in kept.glob("onnxruntime-linear-max/*.onnx")}
    assert outcomes["linear maxonnxruntime"].facts["inside"]["file_bytes"] in sizes


def test_a_row_that_fails_keeps_the_last_line_it_wrote(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["no such recipeqdq"]

    assert outcome.error == "KeyError: 'no such recipe'"
    assert (outcome.accuracy, outcome.correct, outcome.facts) == (None, "", {})


def test_a_row_that_a_peer_cannot_run_says_why(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["uqdq"].error == "no way"


def test_a_peer_without_its_environment_says_how_to_make_it(outcomes: dict[str, Outcome]) -> None:
    error = outcomes["linear maxmodelopt"].error

    assert error.startswith("the environment of NVIDIA ModelOpt is missing")
    assert error.endswith("run python -m benchmarks.peers prepare")


def test_a_family_that_cannot_be_traced_is_an_error_of_the_graph_rows(contest: Contest, tmp_path: Path) -> None:
    for file in contest.checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    config["hidden_size"] = 48  # the weights are 32 wide
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")

    (outcome,) = run_contest(replace(contest, checkpoint=tmp_path), [_only(ONNX_RUNTIME, "linear max")])

    assert outcome.error.startswith("no float graph: RuntimeError")


def test_a_row_that_takes_too_long_is_stopped(contest: Contest, tmp_path: Path) -> None:
    (tmp_path / "sleeps.py").write_text("import time\ntime.sleep(60)\n", encoding="utf-8")

    error = run_module(Path(sys.executable), ["sleeps"], replace(contest, minutes=0.02), cwd=tmp_path)

    assert error == "stopped after 0.02 minutes"


def test_a_silent_failure_is_its_exit_status(contest: Contest, tmp_path: Path) -> None:
    (tmp_path / "leaves.py").write_text("raise SystemExit(3)\n", encoding="utf-8")

    assert run_module(Path(sys.executable), ["leaves"], contest, cwd=tmp_path) == "exit status 3"


def test_a_missing_checkpoint_is_named(contest: Contest, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"no checkpoint in {tmp_path}: give a Hugging Face folder"):
        next(run_contest(replace(contest, checkpoint=tmp_path), [OURS]))


def test_one_row_has_no_standard_error(contest: Contest) -> None:
    with pytest.raises(DataError, match="gives 1 row: a standard error needs two or more"):
        next(run_contest(replace(contest, limit=1), [OURS]))


def test_a_task_that_is_not_judged_row_by_row_is_refused(contest: Contest) -> None:
    with pytest.raises(DataError, match="--task multiple-choice: peers are compared row by row, by accuracy; give"):
        next(run_contest(replace(contest, task="multiple-choice"), [OURS]))
