"""``qdq finetune`` interrupted: refused without ``--resume``, and killed in mid-run it goes on to the same result."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.sample import CHECKPOINT, TRAIN, VALIDATION
from tests.contracts.source_tree import ROOT
from tests.test_command_line.calling import Done, Workspace, call, list_tree

Chain = tuple[Path, dict[str, Done]]
SETTINGS = [f"--set=finetune.{each}" for each in ("max_steps=40", "evaluations=8", "batch_size=8", "ranges=learned")]
RATE = "--set=finetune.learning_rate=2e-5"


def test_an_interrupted_run_is_named_and_left_alone(chain: Chain, workspace: Workspace, tmp_path: Path) -> None:
    out = tmp_path / "new"
    checkpoints = tmp_path / "new.checkpoints"
    checkpoints.mkdir()
    (checkpoints / "run.json").write_text("{}\n")
    before = list_tree(tmp_path)
    arguments = ("finetune", chain[0] / "calibrated", "--data", workspace.train, "--out", out)
    done = call(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err == f"qdq: {checkpoints} holds an interrupted run: go on with --resume, or delete the folder\n"
    done = call(*arguments, "--resume")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        f"qdq: {checkpoints} holds a run with other model and rows and settings and processes: "
        "give what it was started with, or delete it\n"
    )
    assert list_tree(tmp_path) == before


def test_a_finished_run_leaves_no_checkpoints(chain: Chain) -> None:
    assert not list(chain[0].glob("*.checkpoints"))


def command(folder: Path, name: str, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "qdq", "finetune", str(folder / "calibrated"), "--data", str(TRAIN), "--limit", "600"),
        *("--teacher", str(CHECKPOINT), "--out", str(folder / name), *SETTINGS, RATE, "--json", *more),
    ]


@pytest.mark.long
def test_a_run_that_was_killed_goes_on_to_the_same_model_and_metric(tmp_path: Path) -> None:
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}
    calibrated = call(
        *("calibrate", CHECKPOINT, "--task", "text-classification", "--data", TRAIN, "--limit", 64),
        *("--out", tmp_path / "calibrated", "--method", "percentile"),
    )
    assert calibrated.code == 0
    subprocess.run(command(tmp_path, "whole"), cwd=ROOT, env=settings, check=True, capture_output=True, timeout=600)
    process = subprocess.Popen(
        command(tmp_path, "killed"), cwd=ROOT, env=settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    state = tmp_path / "killed.checkpoints" / "checkpoint-15" / "trainer_state.json"
    deadline = time.monotonic() + 300
    while not state.is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=60) == -signal.SIGKILL, "killed, not finished"
    assert not (tmp_path / "killed").exists()
    subprocess.run(
        command(tmp_path, "killed", "--resume"), cwd=ROOT, env=settings, check=True, capture_output=True, timeout=600
    )
    whole, resumed = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed"))
    assert resumed == whole
    assert not (tmp_path / "killed.checkpoints").exists()
    scores = [call("evaluate", tmp_path / name, "--data", VALIDATION, "--json").value for name in ("whole", "killed")]
    assert scores[0]["value"] == scores[1]["value"]


@pytest.mark.long
def test_two_processes_write_one_folder(tmp_path: Path) -> None:
    assert (
        call(
            *("calibrate", CHECKPOINT, "--task", "text-classification", "--data", TRAIN, "--limit", 64),
            *("--out", tmp_path / "calibrated", "--method", "max"),
        ).code
        == 0
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "qdq"),
            *("finetune", str(tmp_path / "calibrated"), "--data", str(TRAIN), "--limit", "200", "--json"),
            *("--out", str(tmp_path / "finetuned"), "--set", "finetune.max_steps=4", "--set", "finetune.batch_size=8"),
        ],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "finetuned" / "model.safetensors").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calibrated", "finetuned"]
    assert sum(line.startswith("{") for line in done.stdout.splitlines()) == 1
