"""Training steps of a contest: taken from a result that is there, or refused by name."""

import json
from pathlib import Path

import pytest

from benchmarks.peers.training import read_training
from qat.errors import DataError


def _write(folder: Path, checkpoint: str) -> Path:
    path = folder / "steps.json"
    samples = {"float": [2.0, 4.0], "full": [3.0, 6.0], "modelopt_float": [4.0, 4.0], "modelopt": [8.0, 8.0]}
    path.write_text(json.dumps({"checkpoint": checkpoint, "samples_ms": samples}), encoding="utf-8")
    return path


def test_steps_already_taken_are_read_with_their_ratios(tmp_path: Path) -> None:
    training = read_training(_write(tmp_path, "my-bert"), Path("models/my-bert"))

    assert {each["name"]: each["ratio"] for each in training.list_costs()} == {
        "float": 1.0,
        "full": 1.5,
        "modelopt_float": 1.0,
        "modelopt": 2.0,
    }


def test_steps_of_another_checkpoint_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is of the checkpoint my-bert, the contest of my-albert: give that one's, or"):
        read_training(_write(tmp_path, "my-bert"), Path("my-albert"))


@pytest.mark.parametrize("text", ["{}", "no json", '{"checkpoint": "my-bert", "samples_ms": {"full": [1.0]}}'])
def test_a_file_of_something_else_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "steps.json").write_text(text, encoding="utf-8")

    with pytest.raises(DataError, match=r"is no result of python -m benchmarks.qat_step .* leave --training out"):
        read_training(tmp_path / "steps.json", Path("my-bert"))
