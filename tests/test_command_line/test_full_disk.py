"""Every command that writes, on a disk that takes no more or in a read-only place: one line, the old artefact stays."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.test_command_line.calling import Done, Workspace, call, list_tree
from tests.test_qat.test_full_disk import little_room

Chain = tuple[Path, dict[str, Done]]
TASK = ("--task", "text-classification")
ROOM = 12_000
"""Bytes a file may have: some files of an artefact are written, its model is not."""

Arguments = Callable[[Workspace, Path], tuple[object, ...]]
WRITERS: dict[str, Arguments] = {
    "calibrate": lambda made, chain: (
        *("calibrate", made.checkpoint, *TASK, "--data", made.train, "--method", "max", "--limit", 16),
    ),
    "convert": lambda made, chain: ("convert", made.checkpoint),
    "convert to flax": lambda made, chain: ("convert", made.checkpoint, *TASK, "--to", "flax"),
    "prune": lambda made, chain: ("prune", made.checkpoint, *TASK, "--heads", "0:1"),
    "ranges": lambda made, chain: ("ranges", chain / "calibrated", "--set", "*ffn*=x0.9"),
    "finetune": lambda made, chain: (
        *("finetune", chain / "calibrated", "--data", made.train, "--limit", 16, "--set", "finetune.max_steps=1"),
    ),
    "export": lambda made, chain: ("export", chain / "finetuned"),
    "predict": lambda made, chain: ("predict", chain / "onnx", "--data", made.train, "--top", 3),
}


def write(made: Workspace, chain: Chain, name: str, out: Path, room: int) -> Done:
    with little_room(room):
        return call(*WRITERS[name](made, chain[0]), "--out", out)


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_line_and_leaves_the_old_artefact(
    workspace: Workspace, chain: Chain, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "out"
    if name == "predict":
        out.write_text("old")
    else:
        out.mkdir()
        (out / "old").write_text("old")
    before = list_tree(tmp_path)
    done = write(workspace, chain, name, out, 2_000 if name == "predict" else ROOM)
    assert (done.code, done.out) == (2, "")
    place = out.with_name("out.checkpoints") if name == "finetune" else out
    assert done.err.endswith(f"cannot write {place}: File too large; make room there, or choose another --out\n")
    assert {path: content for path, content in list_tree(tmp_path).items() if "checkpoints" not in path} == before


@pytest.mark.parametrize("name", WRITERS)
def test_a_place_that_cannot_be_written_is_named(workspace: Workspace, chain: Chain, tmp_path: Path, name: str) -> None:
    out = tmp_path / "file" / "out"
    out.parent.write_text("in the way")
    done = call(*WRITERS[name](workspace, chain[0]), "--out", out)
    assert (done.code, done.out) == (2, "")
    assert done.err.endswith(f"cannot write {out}: File exists ({out.parent}); choose another --out\n")
    assert list_tree(tmp_path) == {"file": b"in the way"}
