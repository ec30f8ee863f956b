"""One of several processes is killed: the job ends with an error, nothing is half written, and it can go on."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerState

from qat.processes import rank
from qat.training_callbacks import ReportsSteps
from tests.contracts.source_tree import ROOT
from tests.ranks import lose_last_rank, run_ranks
from tests.test_command_line.calling import Done, Workspace, call, make_workspace

BOUND = 900
"""Seconds for all of a job on a busy machine: far below the half hour that a process waits for a silent one."""

TASK = ("--task", "text-classification")
KILLED = "Signal 9 (SIGKILL) received by PID"
DIES = """
import os, signal
from benchmarks.command_line import run
from calibration.observers import RangeObserver

if os.environ["RANK"] == "1":
    RangeObserver.begin = lambda self, inputs, number: os.kill(os.getpid(), signal.SIGKILL)
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


@pytest.mark.long
def test_a_calibration_that_lost_a_process_writes_nothing(workspace: Workspace, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(DIES, encoding="utf-8")
    arguments = ("calibrate", workspace.checkpoint, *TASK, "--data", workspace.train, "--batch-size", 8)
    done = torchrun(tmp_path, program, *arguments, "--out", tmp_path / "calibrated")
    assert done.returncode != 0
    assert KILLED in done.stderr
    assert names(tmp_path) == ["program.py"]


def train(folder: Path, name: str, *more: str) -> Done:
    settings = ("max_steps=6", "evaluations=3", "batch_size=4", "dropout=0.1", "learning_rate=1e-3")
    return call(
        *("finetune", folder / "calibrated", "--data", folder / "train.jsonl", "--out", folder / name, *more),
        *(f"--set=finetune.{each}" for each in settings),
    )


def train_whole(folder: Path) -> None:
    assert train(folder, "whole").code == 0


def train_on(folder: Path) -> None:
    assert train(folder, "killed", "--resume").code == 0


def train_until_killed(folder: Path) -> None:
    usual = ReportsSteps.on_step_end

    def die(self: ReportsSteps, args: Any, state: TrainerState, control: Any, **named: Any) -> None:
        if rank() == 1 and state.global_step == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        usual(self, args, state, control, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReportsSteps, "on_step_end", die)
        raise RuntimeError(train(folder, "killed").err.strip())


@pytest.mark.long
def test_a_training_that_lost_a_process_goes_on_to_the_same_model(tmp_path: Path) -> None:
    made = make_workspace(tmp_path)
    arguments = ("calibrate", made.checkpoint, *TASK, "--data", made.train, "--out", tmp_path / "calibrated")
    assert call(*arguments, "--method", "max").code == 0
    run_ranks(train_whole, tmp_path)
    before = names(tmp_path)
    said = lose_last_rank(train_until_killed, tmp_path)
    assert said == (
        "RuntimeError: qdq: another process of this job has ended or does not answer: "
        "what was trained so far is kept; go on with --resume"
    )
    (tmp_path / "failed-0.txt").unlink()
    assert names(tmp_path) == sorted([*before, "killed.checkpoints"])
    run_ranks(train_on, tmp_path)
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed"))
    assert one == two
    assert names(tmp_path) == sorted([*before, "killed"])
