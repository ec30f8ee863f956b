"""What the command line's tests share: a folder with a float checkpoint and rows, and finished runs over it."""

from functools import partial
from pathlib import Path

import pytest

from benchmarks.journey import Journey
from tests.test_command_line.calling import Done, Workspace, call, make_workspace


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="session")
def journey(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """The folder that ``qdq run`` filled, and what it printed; latencies are measured for a moment only."""
    pytest.importorskip("tensorrt_rtx", reason="the builder of the tests: pip install 'qdq[rtx]'")
    out = tmp_path_factory.mktemp("journey") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.commands.Journey", partial(Journey, latency_seconds=0.2))
        done = call(
            *("run", workspace.checkpoint, "--task", "text-classification", "--data", workspace.train),
            *("--eval", workspace.validation, "--out", out, "--set", "finetune.max_steps=4"),
            *("--sensitivity", 8, "--json"),
        )
    return out, done


@pytest.fixture(scope="session")
def chain(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Done]]:
    """The folder that ``calibrate``, ``finetune`` and ``export`` filled one after the other, and what each printed."""
    out = tmp_path_factory.mktemp("chain")
    calibrated, finetuned, onnx = (out / name for name in ("calibrated", "finetuned", "onnx"))
    done = {
        "calibrate": call(
            *("calibrate", workspace.checkpoint, "--task", "text-classification", "--data", workspace.train),
            *("--out", calibrated, "--target", "onnxruntime", "--method", "percentile", "--limit", 48, "--json"),
        ),
        "finetune": call(
            *("finetune", calibrated, "--data", workspace.train, "--out", finetuned, "--teacher", workspace.checkpoint),
            *("--eval", workspace.validation, "--set", "finetune.max_steps=2"),
            *("--set", "finetune.learning_rate=1e-4", "--set", "finetune.held_out=0", "--json"),
        ),
        "export": call("export", finetuned, "--out", onnx, "--json"),
    }
    return out, done
