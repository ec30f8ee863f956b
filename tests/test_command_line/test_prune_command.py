"""``qdq prune``: heads by number and by importance, on disk, and what is refused."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.test_command_line.calling import Workspace, call


def test_heads_by_number(workspace: Workspace, tmp_path: Path) -> None:
    done = call("prune", workspace.checkpoint, "--heads", "0:1,2;1:0", "--out", tmp_path / "out", "--json")
    assert (done.code, done.err) == (0, "")
    assert done.value == {
        "out": str(tmp_path / "out"),
        "pruned_heads": {"0": [1, 2], "1": [0]},
        "heads": 5,
        "heads_before": 8,
        "importance": [],
    }
    weights = load_file(tmp_path / "out/model.safetensors")
    assert weights["bert.encoder.layer.0.attention.self.query.weight"].shape == (16, 32)
    assert weights["bert.encoder.layer.1.attention.output.dense.weight"].shape == (32, 24)
    manifest = json.loads((tmp_path / "out/qdq.json").read_text())
    assert (manifest["stage"], manifest["prune"]["heads"]) == ("prune", 5)


def test_heads_by_importance_then_calibrated(workspace: Workspace, tmp_path: Path) -> None:
    rows = ("--task", "text-classification", "--data", workspace.train)
    done = call("prune", workspace.checkpoint, *rows, "--share", 0.5, "--out", tmp_path / "out", "--json")
    assert (done.code, done.err) == (0, "")
    assert (done.value["heads"], done.value["heads_before"]) == (4, 8)
    assert [len(each) for each in done.value["importance"]] == [4, 4]
    calibrated = call("calibrate", tmp_path / "out", *rows, "--out", tmp_path / "q", "--method", "max", "--limit", 8)
    assert (calibrated.code, calibrated.err) == (0, "")
    again = call("prune", tmp_path / "q", "--heads", "0:0", "--out", tmp_path / "no")
    assert (again.code, again.err) == (
        2,
        f"qdq: {tmp_path}/q is quantized already: give the float checkpoint it was made from\n",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "say which heads go: either --heads '0:1,2;3:0', or --share 0.5 with --data and --task"),
        (
            ("--heads", "0:1", "--share", 0.5),
            "say which heads go: either --heads '0:1,2;3:0', or --share 0.5 with --data and --task",
        ),
        (
            ("--share", 0.5),
            "--share measures what the loss needs: add --data with labelled rows, and --task",
        ),
        (
            ("--heads", "0:1;x"),
            "--heads '0:1;x' is not understood at 'x': write each layer once, as '0:1,2;3:0'",
        ),
        (
            ("--heads", "0:1;0:2"),
            "--heads '0:1;0:2' is not understood at '0:2': write each layer once, as '0:1,2;3:0'",
        ),
        (("--heads", "7:1"), "no layer 7 to take heads out of: the model has layers 0 to 1"),
    ],
)
def test_what_is_refused(workspace: Workspace, tmp_path: Path, options: tuple[object, ...], message: str) -> None:
    done = call("prune", workspace.checkpoint, *options, "--out", tmp_path / "out")
    assert (done.code, done.err) == (2, f"qdq: {message}\n")
    assert list(tmp_path.iterdir()) == []
