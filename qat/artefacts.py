"""Artefacts on disk: written whole or not at all, each with a manifest that says what made it."""

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from qat.errors import OutputError
from qat.full_disk import naming_full_disk
from qat.staging import exchange, staging_folder

MANIFEST = "qdq.json"
_PACKAGES = ("qdq", "torch", "transformers", "onnx", "onnxruntime", "openvino", "tensorrt_rtx", "tensorrt")


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path`` that takes its place when the block ends without an error.

    Raises:
        OutputError: the parent folder cannot be written, there is no room left in it, or ``path`` is a file.
    """
    path = Path(path)
    if path.is_file():
        raise OutputError(f"cannot write the folder {path}: a file of that name exists; choose another --out")
    if path.is_symlink():
        path = path.resolve()
    with staging_folder(path) as staging, naming_full_disk(path):
        yield staging
        if path.exists():
            exchange(staging, path)
        else:
            staging.rename(path)


@contextmanager
def atomic_files(*paths: Path) -> Iterator[Path]:
    """A temporary folder for the files ``paths``, which lie side by side, to be written in by their names.

    When the block ends without an error they take their places one directly after the other, in that order; one that
    was not written is removed from its place.

    Raises:
        OutputError: their folder cannot be written, there is no room left in it, or one of them is a folder.
    """
    for path in paths:
        if path.is_dir():
            raise OutputError(f"cannot write the file {path}: a folder of that name exists; choose another --out")
    with staging_folder(paths[0]) as staging, naming_full_disk(paths[0]):
        yield staging
        for path in paths:
            if (staging / path.name).exists():
                (staging / path.name).replace(path)
            else:
                path.unlink(missing_ok=True)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary file path beside ``path`` that takes its place when the block ends without an error.

    Raises:
        OutputError: as ``atomic_files``.
    """
    path = Path(path)
    with atomic_files(path) as staging:
        yield staging / path.name


def require_writable(path: Path) -> None:
    """Passes when an artefact can be written at ``path``; asked before long work starts.

    Raises:
        OutputError: its folder cannot be made or written.
    """
    with staging_folder(Path(path)):
        pass


def write_json(path: Path, value: object) -> None:
    """``path`` holding ``value`` as indented JSON, written atomically."""
    with atomic_file(path) as staging:
        staging.write_text(format_json(value), encoding="utf-8")


def format_json(value: object) -> str:
    r"""Indented JSON.

    >>> format_json({"a": 1})
    '{\n  "a": 1\n}\n'
    """
    return json.dumps(value, indent=2, sort_keys=False, allow_nan=False) + "\n"


def hash_file(path: Path) -> str:
    """The SHA-256 of a file, as ``sha256:<hex>``, read in blocks."""
    with Path(path).open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"


def installed_versions() -> dict[str, str]:
    """The versions of the packages that shape an artefact, those that are installed."""
    found = {name: _find_version(name) for name in _PACKAGES}
    return {"python": platform.python_version()} | {name: each for name, each in found.items() if each is not None}


@cache
def _find_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def write_manifest(folder: Path, *, stage: str, inputs: Mapping[str, Path], facts: Mapping[str, object]) -> None:
    """``qdq.json`` in ``folder``: the stage, the hash of every input, of every file, versions, hardware, the facts.

    Args:
        folder: the artefact's staging folder, with all its other files in it.
        stage: ``convert``, ``prune``, ``calibrate``, ``ranges``, ``finetune``, ``export`` or ``deploy``.
        inputs: what the artefact was made from, by role; files are hashed, folders by their model file.
        facts: what the stage wants remembered, JSON values.
    """
    hashes = {role: {"path": str(path), "hash": _hash_input(Path(path))} for role, path in inputs.items()}
    hardware = {"machine": platform.machine(), "processor": platform.processor() or platform.machine()}
    manifest = {
        "stage": stage,
        "inputs": hashes,
        "files": _hash_files(Path(folder)),
        "versions": installed_versions(),
        "hardware": hardware,
        **facts,
    }
    (Path(folder) / MANIFEST).write_text(format_json(manifest), encoding="utf-8")


def _hash_files(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hash_file(path) for path in files}


def _hash_input(path: Path) -> str | None:
    if path.is_file():
        return hash_file(path)
    for name in (
        "model.safetensors",
        "model.safetensors.index.json",
        "model.onnx",
        "pytorch_model.bin",
        "flax_model.msgpack",
    ):
        if (path / name).is_file():
            return hash_file(path / name)
    return None


def read_manifest(folder: Path) -> dict[str, object]:
    """The manifest of an artefact's folder, empty where there is none."""
    return read_object(Path(folder) / MANIFEST)


def read_object(path: Path) -> dict[str, object]:
    """The JSON object in a file, empty where there is none."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def explain_damage(folder: Path) -> str:
    """Why a folder is not what its manifest describes; empty where every file is as it was written."""
    files = read_manifest(folder).get("files")
    if not isinstance(files, dict):
        return f"it has no {MANIFEST} that names its files"
    for name, hashed in files.items():
        path = Path(folder) / name
        if not path.is_file() or hash_file(path) != hashed:
            return f"{name} was changed after it was written"
    return ""
