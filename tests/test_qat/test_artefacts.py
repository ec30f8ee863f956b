"""Files are written whole or not at all, and manifests say what made them."""

import hashlib
import json
import stat
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from qat.artefacts import (
    MANIFEST,
    atomic_file,
    atomic_folder,
    hash_file,
    installed_versions,
    read_manifest,
    write_json,
    write_manifest,
)
from qat.errors import OutputError


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A path whose parent can be no folder: it is a file."""
    (tmp_path / "file").write_text("in the way")
    yield tmp_path / "file" / "out"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def interrupt_after(written: int) -> None:
    """The user's Ctrl-C once so much is written."""
    raise KeyboardInterrupt(written)


def test_a_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with atomic_folder(out) as staging:
        (staging / "a").write_text("1")
        assert not out.exists()
        assert staging.parent == out.parent
    assert names(tmp_path) == ["a", "deep", "out"]


def test_a_folder_replaces_the_old_one_with_all_its_files(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("0")
    with atomic_folder(out) as staging:
        (staging / "new").write_text("1")
        assert names(out) == ["old"]
    assert names(tmp_path) == ["new", "out"]


def test_a_failure_leaves_the_old_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("0")
    with pytest.raises(KeyboardInterrupt), atomic_folder(out) as staging:
        interrupt_after((staging / "new").write_text("1"))
    assert names(tmp_path) == ["old", "out"]


def test_a_failure_leaves_nothing_where_there_was_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "out") as staging:
        interrupt_after((staging / "new").write_text("1"))
    assert names(tmp_path) == []


def test_a_folder_can_be_read_by_others(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "out"):
        pass
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o755


def test_a_file_in_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError) as caught, atomic_folder(tmp_path / "out"):
        pass
    assert str(caught.value) == (
        f"cannot write the folder {tmp_path / 'out'}: a file of that name exists; choose another --out"
    )
    assert (tmp_path / "out").read_text() == "mine"


def test_a_folder_in_the_place_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as caught, atomic_file(tmp_path):
        pass
    assert str(caught.value) == f"cannot write the file {tmp_path}: a folder of that name exists; choose another --out"


def test_a_place_for_no_folder(locked: Path) -> None:
    with pytest.raises(OutputError, match=f"^cannot write {locked}: .*; choose another --out$"), atomic_folder(locked):
        pass


def test_a_place_for_no_file(locked: Path) -> None:
    with pytest.raises(OutputError, match=f"^cannot write {locked}: .*; choose another --out$"), atomic_file(locked):
        pass


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "out.bin"
    out.write_text("old")
    with atomic_file(out) as staging:
        staging.write_text("new")
        assert out.read_text() == "old"
        assert staging.name == "out.bin"
    assert (names(tmp_path), out.read_text()) == (["out.bin"], "new")


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    out = tmp_path / "out.bin"
    out.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_file(out) as staging:
        interrupt_after(staging.write_text("half"))
    assert (names(tmp_path), out.read_text()) == (["out.bin"], "old")


def test_json_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": [1, 2.5, None], "a": "ü"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"b": [1, 2.5, None], "a": "ü"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"b": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8")) == {"b": [1, 2.5, None], "a": "ü"}


@pytest.mark.parametrize("size", [0, 3, (1 << 20) + 7])
def test_the_hash_is_sha256(tmp_path: Path, size: int) -> None:
    content = bytes(i % 251 for i in range(size))
    (tmp_path / "a").write_bytes(content)
    assert hash_file(tmp_path / "a") == f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_versions_name_what_is_installed() -> None:
    found = installed_versions()
    assert {"python", "qdq", "torch", "transformers", "onnx", "onnxruntime"} <= found.keys()
    assert found["torch"] == version("torch")


def test_a_manifest_says_what_made_the_folder(tmp_path: Path) -> None:
    data, model, empty = tmp_path / "train.jsonl", tmp_path / "model", tmp_path / "empty"
    data.write_text("{}")
    for folder in (model, empty):
        folder.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    inputs = {"data": data, "checkpoint": model, "nothing": empty, "hub": Path("owner/name")}
    write_manifest(tmp_path, stage="calibrate", inputs=inputs, facts={"rows": 3})
    manifest = read_manifest(tmp_path)
    assert manifest["inputs"] == {
        "data": {"path": str(data), "hash": hash_file(data)},
        "checkpoint": {"path": str(model), "hash": hash_file(model / "model.safetensors")},
        "nothing": {"path": str(empty), "hash": None},
        "hub": {"path": "owner/name", "hash": None},
    }
    assert (manifest["stage"], manifest["rows"], manifest["versions"]) == ("calibrate", 3, installed_versions())
    assert set(manifest) == {"stage", "inputs", "files", "versions", "hardware", "rows"}


@pytest.mark.parametrize("content", [None, "", "[1]", "{broken", "\x00"])
def test_a_folder_without_a_readable_manifest(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / MANIFEST).write_text(content)
    assert read_manifest(tmp_path) == {}
