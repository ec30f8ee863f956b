"""An engine on disk: written with its manifest, reused while nothing it was made from changed, refused when broken."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from export.builders import hardware_names, load_builder
from export.engine_build import BuiltEngine
from export.engine_spec import EngineSpec
from export.gpu import find_gpu
from export.graph_file import list_files
from qat.artefacts import atomic_files, format_json, hash_file, installed_versions
from qat.errors import CheckpointError

_UNKNOWN_GPU = "a GPU that torch does not see"


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """What an engine is made from; the same origin gives the same engine.

    ``files`` holds the hash of the graph and of each file of its weights; ``gpu`` is where a builder builds for the
    machine it runs on, ``None`` where it builds for others.
    """

    spec: EngineSpec
    version: str
    gpu: str | None
    files: Mapping[str, str]


class _Builder(BaseModel):
    """By what an engine was built."""

    name: str
    version: str


class _Facts(BaseModel):
    """What a manifest tells of its engine."""

    model_config = ConfigDict(strict=True)

    builder: _Builder
    hardware: tuple[str, ...] = Field(strict=False)
    seconds: float
    gpu: str | None
    macs: dict[str, int]


def read_origin(onnx_path: Path, spec: EngineSpec) -> Origin:
    """What an engine built now would be made from.

    Raises:
        BuildError: the builder is not installed.
        ExportError: no readable ONNX file.
    """
    trt = load_builder(spec.builder)
    return Origin(
        spec=spec,
        version=str(trt.__version__),
        gpu=None if hardware_names(trt) else str(find_gpu() or _UNKNOWN_GPU),
        files={file.name: hash_file(file) for file in list_files(onnx_path)},
    )


def manifest_of(path: Path) -> Path:
    """Where the manifest of an engine lies."""
    return path.with_name(path.name + ".json")


def table_of(path: Path) -> Path:
    """Where the layer table of an engine lies."""
    return path.with_name(path.name + ".layers")


def write_engine(engine: BuiltEngine, path: Path, *, onnx_path: Path, facts: Mapping[str, object]) -> None:
    """``path`` holding the engine, its layer table as ``<path>.layers`` and its manifest as ``<path>.json``.

    All are written before the first takes its place. The manifest takes it last and holds the hash of the other two,
    so a reader can tell a pair that does not match.

    Raises:
        OutputError: the folder cannot be written.
    """
    path, onnx_path = Path(path), Path(onnx_path)
    table, manifest = table_of(path), manifest_of(path)
    with atomic_files(path, table, manifest) as staging:
        written, listed = staging / path.name, staging / table.name
        written.write_bytes(engine.plan)
        if engine.layer_table is not None:
            listed.write_text(engine.layer_table, encoding="utf-8")
        about = {
            "engine": {"file": path.name, "hash": hash_file(written), "bytes": len(engine.plan)},
            "layer_table": {"file": table.name, "hash": hash_file(listed)} if listed.is_file() else None,
            **_describe(engine, onnx_path),
            **facts,
        }
        (staging / manifest.name).write_text(format_json(about), encoding="utf-8")


def _describe(engine: BuiltEngine, onnx_path: Path) -> dict[str, object]:
    return {
        "stage": "build",
        "spec": asdict(engine.spec),
        "inputs": {file.name: {"path": str(file), "hash": hash_file(file)} for file in list_files(onnx_path)},
        "versions": installed_versions(),
        "builder": {"name": engine.builder, "version": engine.version},
        "hardware": list(engine.hardware),
        "gpu": engine.gpu,
        "seconds": round(engine.seconds, 3),
        "macs": dict(engine.macs),
    }


def read_manifest_of(path: Path) -> dict[str, Any]:
    """The manifest of an engine that is the one it was written with; empty where there is none to be read.

    Raises:
        CheckpointError: no engine, or one that was changed after it was built.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no engine at {path}: give an engine that qdq build wrote")
    try:
        manifest = json.loads(manifest_of(path).read_text(encoding="utf-8"))
        hashed = str(manifest["engine"]["hash"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    if hashed != hash_file(path):
        raise CheckpointError(
            f"{path} is not the engine that {manifest_of(path).name} describes: it was changed or cut short after it "
            "was built; build it again with qdq build"
        )
    return dict(manifest)


def explain_rebuild(path: Path, origin: Origin) -> str:
    """Why the engine at ``path`` cannot stand for one of that origin; empty where it can."""
    if not path.is_file():
        return "there is none yet"
    try:
        manifest = read_manifest_of(path)
    except CheckpointError:
        return "its file does not match its manifest"
    try:
        changed = _find_change(path, manifest, origin)
        _Facts.model_validate(manifest)  # which ``read_built`` will need
    except (KeyError, TypeError, AttributeError, ValidationError):
        return "its manifest cannot be read"
    return changed


def _find_change(path: Path, manifest: Mapping[str, Any], origin: Origin) -> str:
    files = {name: entry["hash"] for name, entry in manifest["inputs"].items()}
    for name in sorted({*files, *origin.files}):
        if files.get(name) != origin.files.get(name):
            return f"{name} has changed"
    wanted = json.loads(json.dumps(asdict(origin.spec)))
    for name, value in wanted.items():
        if manifest["spec"][name] != value:
            return f"build setting '{name}' has changed"
    builder, qdq = manifest["builder"], installed_versions().get("qdq")
    if builder["version"] != origin.version:
        return f"it was built by {builder['name']} {builder['version']}, {origin.version} is installed"
    if manifest["versions"].get("qdq") != qdq:
        return f"it was built by qdq {manifest['versions'].get('qdq')}, {qdq} is installed"
    if manifest["gpu"] != origin.gpu:
        return f"it was built on {manifest['gpu'] or _UNKNOWN_GPU}, this is {origin.gpu or _UNKNOWN_GPU}"
    table = manifest["layer_table"]
    if table is not None and (not table_of(path).is_file() or hash_file(table_of(path)) != table["hash"]):
        return "its layer table does not match its manifest"
    return ""


def read_built(path: Path, origin: Origin) -> BuiltEngine:
    """The engine on disk that ``explain_rebuild`` had nothing against.

    Raises:
        CheckpointError: it is gone or was changed since.
    """
    manifest = read_manifest_of(path)
    facts = _Facts.model_validate(manifest)
    return BuiltEngine(
        plan=path.read_bytes(),
        layer_table=None if manifest["layer_table"] is None else table_of(path).read_text(encoding="utf-8"),
        builder=facts.builder.name,
        version=facts.builder.version,
        hardware=facts.hardware,
        seconds=facts.seconds,
        spec=origin.spec,
        gpu=facts.gpu,
        macs=facts.macs,
    )
