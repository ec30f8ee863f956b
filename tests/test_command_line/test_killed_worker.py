"""One of torchrun's processes is killed: the job ends with an error, nothing is half written, and it can go on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contracts.source_tree import ROOT
from tests.test_command_line.calling import Workspace, call

BOUND = 400
"""Seconds for all of a job on a busy machine: far below the half hour that a process waits for a silent one."""

TASK = ("--task", "text-classification")
KILLED = "Signal 9 (SIGKILL) received by PID"
DIES = """
import os, signal
from benchmarks.command_line import run
from calibration.observers import RangeObserver
from qat.training_callbacks import ReportsSteps

def watch(usual, dies):
    def step(*given, **named):
        if os.environ["RANK"] == "1" and dies(*given, **named):
            os.kill(os.getpid(), signal.SIGKILL)
        return usual(*given, **named)
    return step

RangeObserver.begin = watch(RangeObserver.begin, lambda self, inputs, number: number == 2)
ReportsSteps.on_step_end = watch(ReportsSteps.on_step_end, lambda *given, **named: given[2].global_step == 5)
run()
"""


def torchrun(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            *map(str, arguments),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """``qdq`` whose second process is killed at its second batch of calibration, or after five steps of training."""
    path = tmp_path / "program.py"
    path.write_text(DIES, encoding="utf-8")
    return path


@pytest.mark.long
def test_a_calibration_that_lost_a_process_writes_nothing(workspace: Workspace, tmp_path: Path, program: Path) -> None:
    arguments = ("calibrate", workspace.checkpoint, *TASK, "--data", workspace.train, "--batch-size", 8)
    done = torchrun(tmp_path, program, *arguments, "--out", tmp_path / "calibrated")
    assert done.returncode != 0
    assert KILLED in done.stderr
    assert names(tmp_path) == ["program.py"]


@pytest.mark.long
def test_a_training_that_lost_a_process_goes_on_to_the_same_model(
    workspace: Workspace, tmp_path: Path, program: Path
) -> None:
    calibrated = tmp_path / "calibrated"
    arguments = ("calibrate", workspace.checkpoint, *TASK, "--data", workspace.train, "--out", calibrated)
    assert call(*arguments, "--method", "max").code == 0
    settings = ("max_steps=6", "evaluations=3", "batch_size=4", "dropout=0.1", "learning_rate=1e-3")
    train = ("finetune", calibrated, "--data", workspace.train, *(f"--set=finetune.{each}" for each in settings))
    whole = torchrun(tmp_path, "-m", "qdq", *train, "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    killed = torchrun(tmp_path, program, *train, "--out", tmp_path / "killed")
    assert killed.returncode != 0
    assert KILLED in killed.stderr
    assert names(tmp_path) == ["calibrated", "killed.checkpoints", "program.py", "whole"]
    resumed = torchrun(tmp_path, "-m", "qdq", *train, "--out", tmp_path / "killed", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed"))
    assert one == two
    assert names(tmp_path) == ["calibrated", "killed", "program.py", "whole"]
