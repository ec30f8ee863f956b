"""What is being written lies beside its place, changes places in one step, and does not outlive a killed process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from qat import staging
from qat.artefacts import atomic_file, atomic_files, atomic_folder
from qat.errors import OutputError
from qat.locks import hold_folder, join_folder
from qat.staging import exchange, remove_leftovers
from tests.contracts.source_tree import ROOT

WRITES_AND_DIES = """
import os, signal, sys
from pathlib import Path
from qat.artefacts import atomic_folder
with atomic_folder(Path(sys.argv[1])) as staging:
    (staging / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
HOLDS_AND_DIES = """
import os, signal, sys
from pathlib import Path
from qat.locks import hold_folder
with hold_folder(Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def run_until_killed(program: str, path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", program, str(path)], cwd=ROOT, check=False, timeout=300)
    assert done.returncode == -signal.SIGKILL


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def make_folder(path: Path, name: str) -> Path:
    path.mkdir()
    (path / name).write_text(name)
    return path


def test_a_killed_writer_leaves_the_old_folder_and_the_next_one_tidies_up(tmp_path: Path) -> None:
    out = make_folder(tmp_path / "out", "old")
    run_until_killed(WRITES_AND_DIES, out)
    assert names(out) == ["old"]
    assert len(names(tmp_path)) == 2
    with atomic_file(tmp_path / "other") as path:
        path.write_text("new")
    assert names(tmp_path) == ["other", "out"]


def test_nothing_is_tidied_up_while_somebody_is_writing_there(tmp_path: Path) -> None:
    left = make_folder(tmp_path / ".out.abc.qdq", "half")
    mine = make_folder(tmp_path / ".out.original", "of the user")
    with join_folder(tmp_path):
        remove_leftovers(tmp_path)
        assert left.is_dir()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [mine.name]


@pytest.mark.parametrize("in_one_step", [True, False])
def test_two_folders_change_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_one_step: bool) -> None:
    if not in_one_step:
        monkeypatch.setattr(staging, "_rename_both", lambda new, old: False)
    old, new = make_folder(tmp_path / "old", "a"), make_folder(tmp_path / ".old.x.qdq", "b")
    exchange(new, old)
    assert (names(old), names(new), len(names(tmp_path))) == (["b"], ["a"], 2)


@pytest.mark.skipif(sys.platform != "linux", reason="the one step is Linux's")
def test_the_one_step_is_there(tmp_path: Path) -> None:
    old, new = make_folder(tmp_path / "old", "a"), make_folder(tmp_path / "new", "b")
    numbers = old.stat().st_ino, new.stat().st_ino
    assert staging._rename_both(new, old)
    assert (new.stat().st_ino, old.stat().st_ino) == numbers
    assert not staging._rename_both(tmp_path / "nothing", old)


def test_a_link_to_a_folder_stays_one(tmp_path: Path) -> None:
    real = make_folder(tmp_path / "real", "old")
    link = tmp_path / "link"
    link.symlink_to(real)
    with atomic_folder(link) as folder:
        (folder / "new").write_text("1")
    assert link.is_symlink()
    assert (names(real), names(tmp_path)) == (["new"], ["link", "real"])


def test_files_take_their_places_together(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a", "b", "c")]
    for path in paths:
        path.write_text("old")
    with atomic_files(*paths) as folder:
        (folder / "a").write_text("new")
        (folder / "c").write_text("new")
        assert [path.read_text() for path in paths] == ["old"] * 3
    assert names(tmp_path) == ["a", "c"]
    assert [paths[0].read_text(), paths[2].read_text()] == ["new", "new"]


def test_a_folder_belongs_to_one_process(tmp_path: Path) -> None:
    with hold_folder(tmp_path):
        with pytest.raises(OutputError) as caught, hold_folder(tmp_path):
            pass
        assert names(tmp_path) == [".lock"]
    assert str(caught.value) == (
        f"{tmp_path} is being written by another process: wait until that ends, or choose another --out"
    )
    assert names(tmp_path) == []
    with hold_folder(tmp_path):
        pass


def test_a_lock_that_was_deleted_meanwhile_locks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def delete_after(path: Path, flags: int, mode: int) -> int:
        descriptor = opened(path, flags, mode)
        Path(path).unlink()
        return descriptor

    monkeypatch.setattr("qat.locks.os.open", delete_after)
    with pytest.raises(OutputError) as caught, hold_folder(tmp_path):
        pass
    assert str(caught.value) == f"{tmp_path} was being written by another process a moment ago: try again"


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    run_until_killed(HOLDS_AND_DIES, tmp_path)
    assert names(tmp_path) == [".lock"]
    with hold_folder(tmp_path):
        pass
    assert names(tmp_path) == []
