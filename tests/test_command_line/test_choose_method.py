"""``qdq calibrate --method all`` keeps every method's ranges, and another is chosen later without data."""

import json
from pathlib import Path

import pytest
import torch

from calibration.range_rows import list_ranges
from calibration.ranges import METHODS
from qat.artefacts import read_manifest
from qat.checkpoint import load_checkpoint
from qat.tasks import find_task
from tests.test_command_line.calling import Workspace, call, list_tree
from tests.tiny import save_tiny, tiny_bert, tiny_tokenizer

TASK = "text-classification"


def ranges_of(folder: Path) -> dict[tuple[str, int], float]:
    model = load_checkpoint(folder, find_task(TASK)).model
    return {(row.name, row.depth): row.amax for row in list_ranges(model)}


def calibrate(workspace: Workspace, out: Path, *options: object) -> Path:
    done = call(*("calibrate", workspace.checkpoint, "--task", TASK, "--data", workspace.train, "--out", out, *options))
    assert (done.code, done.err.count("\n")) == (0, 1)
    return out


@pytest.fixture(scope="module")
def everything(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return calibrate(workspace, tmp_path_factory.mktemp("all") / "all", "--method", "all")


@pytest.mark.parametrize("method", METHODS)
def test_a_chosen_method_has_the_ranges_it_finds_itself(
    everything: Path, workspace: Workspace, tmp_path: Path, method: str
) -> None:
    before = list_tree(everything)
    done = call("calibrate", everything, "--method", method, "--out", tmp_path / "chosen", "--json")
    expected = ranges_of(calibrate(workspace, tmp_path / "alone", "--method", method))
    assert (done.code, done.value["method"], done.value["ranges"]) == (0, method, 16)
    assert ranges_of(tmp_path / "chosen") == expected
    assert list_tree(everything) == before


def test_candidates_are_named_in_the_manifest(everything: Path, workspace: Workspace, tmp_path: Path) -> None:
    assert read_manifest(everything)["candidates"] == sorted([*METHODS, "best"])
    alone = calibrate(workspace, tmp_path / "alone", "--method", "mse")
    assert read_manifest(alone)["candidates"] == []
    assert not (alone / "candidates.json").exists()


def test_a_choice_can_be_changed_again(everything: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert call("calibrate", everything, "--method", "mse", "--out", first).code == 0
    assert call("calibrate", first, "--method", "max", "--out", second).code == 0
    stored = json.loads((everything / "candidates.json").read_text())["methods"]["max"]
    found = {name: amax for (name, depth), amax in ranges_of(second).items() if name in stored}
    assert found == pytest.approx({name: amax for name, (amax,) in stored.items()}, rel=1e-7)


def test_fewer_rows_than_asked_for_are_announced(workspace: Workspace, tmp_path: Path) -> None:
    done = call(
        *("calibrate", workspace.checkpoint, "--task", TASK, "--data", workspace.train, "--out", tmp_path / "out")
    )
    assert done.err == ("512 rows were asked for (calibration.samples), the data holds 64: all were read\n")


def test_constant_tensors_are_announced(workspace: Workspace, tmp_path: Path) -> None:
    model = tiny_bert()
    with torch.no_grad():
        for part in ("weight", "bias"):
            model.get_parameter(f"bert.encoder.layer.0.attention.self.value.{part}").zero_()
    save_tiny(model, tiny_tokenizer(), tmp_path / "float")
    arguments = ("calibrate", tmp_path / "float", "--task", TASK, "--data", workspace.train, "--method", "max")
    done = call(*arguments, "--set", "calibration.samples=64", "--out", tmp_path / "out")
    assert (done.code, done.err) == (
        0,
        "2 quantizers met a single magnitude everywhere, dead or constant tensors: "
        "bert.encoder.layer.0.attention.self.value_quantizer, "
        "bert.encoder.layer.0.attention.output.dense.input_quantizer\n",
    )


@pytest.mark.parametrize(
    ("text", "reason"), [("{", "Expecting property name"), ('{"methods": []}', "has no attribute 'items'")]
)
def test_damaged_candidates(everything: Path, tmp_path: Path, text: str, reason: str) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for name, content in list_tree(everything).items():
        (damaged / name).write_bytes(content)
    (damaged / "candidates.json").write_text(text)
    done = call("calibrate", damaged, "--method", "mse", "--out", tmp_path / "out")
    assert done.code == 2
    assert done.err.startswith(f"qdq: {damaged}/candidates.json is damaged (")
    assert reason in done.err
    assert done.err.endswith("): calibrate the float checkpoint again\n")
    assert not (tmp_path / "out").exists()
