"""``qdq run`` onto what an earlier run left: taken where it is the same, made again where not, or refused."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest

from benchmarks.journey import Journey
from qat.locks import hold_folder
from tests.test_command_line.calling import Done, Workspace, call, list_tree
from tests.test_command_line.killing import WEIGHTS, read_figures

Finished = tuple[Path, Done]
SETTINGS = ("--set", "finetune.max_steps=4")


@pytest.fixture
def copy(journey: Finished, tmp_path: Path) -> Path:
    """The folder of a finished run, to be changed."""
    shutil.copytree(journey[0], tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.commands.Journey", partial(Journey, latency_seconds=0.02))


def run(made: Workspace, out: Path, *more: str) -> Done:
    return call(
        *("run", made.checkpoint, "--task", "text-classification", "--data", made.train),
        *("--eval", made.validation, "--out", out, "--sensitivity", 8, *more),
    )


def list_stages(done: Done) -> list[str]:
    return [line.removesuffix(" ...") for line in done.err.splitlines() if line.endswith(" ...")]


def test_finished_stages_are_taken_and_the_report_is_the_same(
    journey: Finished, workspace: Workspace, copy: Path
) -> None:
    for name in ("report.json", "report.html"):
        (copy / name).unlink()
    (copy / "finetuned.checkpoints").mkdir()  # as if deleting them had been the last thing undone
    before = list_tree(copy)
    done = run(workspace, copy, *SETTINGS, "--resume")
    assert done.code == 0, done.err
    stages = list_stages(done)
    assert [name for name in stages if name.startswith("take ")] == ["take calibrated", "take finetuned", "take onnx"]
    assert not {"calibrate", "fine-tune", "export"} & {*stages}
    assert read_figures(copy) == read_figures(journey[0])
    after = list_tree(copy)
    assert after.keys() == list_tree(journey[0]).keys()
    assert {name: content for name, content in before.items() if name != "finetuned.checkpoints"} == {
        name: content for name, content in after.items() if not name.startswith("report.")
    }


@pytest.mark.long
def test_what_was_made_from_something_else_is_made_again(
    journey: Finished, workspace: Workspace, copy: Path, tmp_path: Path
) -> None:
    done = run(workspace, copy, "--set", "finetune.max_steps=5", "--resume")
    assert done.code == 0, done.err
    stages = list_stages(done)
    assert "take calibrated" in stages
    assert "fine-tune (settings changed)" in stages
    shutil.copytree(workspace.checkpoint, tmp_path / "float")
    config = json.loads((tmp_path / "float" / "config.json").read_text())
    (tmp_path / "float" / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-6}))
    other = Workspace(tmp_path, tmp_path / "float", workspace.train, workspace.validation)
    done = run(other, copy, *SETTINGS, "--resume")
    assert done.code == 0, done.err
    assert {"calibrate (checkpoint changed)", "fine-tune (model and settings and teacher changed)"} <= {
        *list_stages(done)
    }
    weights = copy / "calibrated" / WEIGHTS["calibrated"]
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    done = run(workspace, copy, *SETTINGS, "--resume")
    assert done.code == 0, done.err
    assert read_figures(copy) == read_figures(journey[0])


def test_a_second_run_into_the_same_folder_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    with hold_folder(out):
        done = run(workspace, out, *SETTINGS)
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        f"qdq: {out} is being written by another process: wait until that ends, or choose another --out\n"
    )
    assert list(out.iterdir()) == []


def test_an_interrupted_training_is_not_begun_again_unasked(workspace: Workspace, tmp_path: Path) -> None:
    checkpoints = tmp_path / "run" / "finetuned.checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "run.json").write_text("{}\n")
    (tmp_path / "run" / "calibrated").mkdir()
    before = list_tree(tmp_path)
    done = run(workspace, tmp_path / "run", *SETTINGS)
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines() == [
        f"{tmp_path / 'run'} holds a run that was not finished: all of it is made again (--resume takes what is "
        "finished)",
        f"qdq: {checkpoints} holds an interrupted run: go on with --resume, or delete the folder",
    ]
    assert list_tree(tmp_path) == before
