"""What the contest's tests share: a tiny checkpoint with rows, its float graph, and a job over both."""

import pytest

from benchmarks.peers.contest import Contest
from benchmarks.peers.float_graph import write_float_graph
from benchmarks.peers.job import Feed, Job
from qat.batches import iterate_batches
from tests.calibrated import encode_tiny
from tests.test_command_line.calling import Workspace, make_workspace

INPUTS = ("input_ids", "attention_mask")


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("peers"))


@pytest.fixture(scope="session")
def contest(workspace: Workspace) -> Contest:
    return Contest(
        checkpoint=workspace.checkpoint,
        task="text-classification",
        data=workspace.train,
        evaluation=workspace.validation,
        texts=16,
        environments=workspace.folder / "environments",
    )


@pytest.fixture(scope="session")
def job(workspace: Workspace) -> Job:
    """16 rows to calibrate on, 24 to answer, with the float graph."""
    graph = workspace.folder / "float.onnx"
    write_float_graph(workspace.checkpoint, "text-classification", INPUTS, graph)
    return Job(
        checkpoint=workspace.checkpoint,
        task="text-classification",
        graph=graph,
        threads=1,
        calibration=_feeds(16, seed=1),
        evaluation=_feeds(24, seed=2),
    )


def _feeds(n: int, seed: int) -> list[Feed]:
    batches = iterate_batches(encode_tiny(n, seed), batch_size=8, pad_token_id=0)
    return [{name: batch.inputs[name] for name in INPUTS} for batch in batches]
