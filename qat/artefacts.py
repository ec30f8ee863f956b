"""Artefacts on disk: written whole or not at all, each with a manifest that says what made it."""

import hashlib
import json
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from qat.errors import OutputError

MANIFEST = "qdq.json"
_PACKAGES = ("qdq", "torch", "transformers", "onnx", "onnxruntime", "openvino", "tensorrt_rtx", "tensorrt")


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path`` that takes its place when the block ends without an error.

    Raises:
        OutputError: the parent folder cannot be written, or ``path`` is a file.
    """
    path = Path(path)
    if path.is_file():
        raise OutputError(f"cannot write the folder {path}: a file of that name exists; choose another --out")
    staging = _staging_folder(path)
    try:
        yield staging
        if path.exists():
            old = staging.with_name(staging.name + ".old")
            path.rename(old)
            staging.rename(path)
            shutil.rmtree(old)
        else:
            staging.rename(path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary file path beside ``path`` that takes its place when the block ends without an error.

    Raises:
        OutputError: the parent folder cannot be written, or ``path`` is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise OutputError(f"cannot write the file {path}: a folder of that name exists; choose another --out")
    staging = _staging_folder(path)
    try:
        yield staging / path.name
        (staging / path.name).replace(path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _staging_folder(path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror} ({path.parent}); choose another --out") from error
    staging.chmod(0o755)
    return staging


def require_writable(path: Path) -> None:
    """Passes when an artefact can be written at ``path``; asked before long work starts.

    Raises:
        OutputError: its folder cannot be made or written.
    """
    shutil.rmtree(_staging_folder(Path(path)))


def write_json(path: Path, value: object) -> None:
    """``path`` holding ``value`` as indented JSON, written atomically."""
    with atomic_file(path) as staging:
        staging.write_text(json.dumps(value, indent=2, sort_keys=False, allow_nan=False) + "\n", encoding="utf-8")


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
    """``qdq.json`` in ``folder``: the stage, the hash of every input, versions, hardware, and the stage's facts.

    Args:
        folder: the artefact's folder (a staging folder while it is being written).
        stage: ``convert``, ``prune``, ``calibrate``, ``ranges``, ``finetune``, ``export`` or ``build``.
        inputs: what the artefact was made from, by role; files are hashed, folders by their model file.
        facts: what the stage wants remembered, JSON values.
    """
    hashes = {role: {"path": str(path), "hash": _hash_input(Path(path))} for role, path in inputs.items()}
    hardware = {"machine": platform.machine(), "processor": platform.processor() or platform.machine()}
    write_json(
        Path(folder) / MANIFEST,
        {"stage": stage, "inputs": hashes, "versions": installed_versions(), "hardware": hardware, **facts},
    )


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
    path = Path(folder) / MANIFEST
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
