"""Whether an engine runs on this machine, asked before it is loaded: a runtime's own answer names neither."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from export.builders import load_builder
from export.engine_files import manifest_of, read_manifest_of
from export.engine_spec import ShapeRange
from export.gpu import Gpu, find_gpu
from qat.errors import BuildError, CheckpointError


def require_runnable(path: Path) -> Mapping[str, Any]:
    """The manifest of an engine that this machine can run.

    Raises:
        CheckpointError: no engine, one without its manifest, or one that was changed after it was built.
        BuildError: its library is missing or of another version, there is no GPU, or the GPU is another.
    """
    manifest = require_manifest(path)
    builder = manifest["builder"]
    installed = str(load_builder(builder["name"]).__version__)
    if not _same_runtime(builder["version"], installed, manifest["spec"]["features"]):
        raise BuildError(
            f"{path} was built by {builder['name']} {builder['version']}, but {installed} is installed: install that "
            "version, or build it again with qdq build"
        )
    gpu = find_gpu()
    if gpu is None:
        raise BuildError(
            f"{path} runs on an NVIDIA GPU ({_targets(manifest)}), and torch finds none on this machine: give the "
            "exported folder, which runs anywhere"
        )
    if not _runs_on(gpu, manifest):
        raise BuildError(
            f"{path} was built for {_targets(manifest)}, but this machine's GPU is {gpu}: build it again here"
            f"{'' if manifest['gpu'] else f' with --hardware {gpu.capability}'}"
        )
    return manifest


def require_manifest(path: Path) -> dict[str, Any]:
    """The manifest of an engine that is as it was built.

    Raises:
        CheckpointError: no engine, one without its manifest, or one that was changed after it was built.
    """
    manifest = read_manifest_of(path)
    if not _tells_all(manifest):
        raise CheckpointError(
            f"{path} has no {manifest_of(path).name} beside it that says what it was built for: keep the two together, "
            "or build it again with qdq build"
        )
    return manifest


def _tells_all(manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest says for what, by what and for which shapes an engine was built."""
    try:
        list_profiles(manifest)
        told = [manifest["builder"]["name"], manifest["builder"]["version"], manifest["gpu"] or ""]
        told += [*manifest["hardware"], *manifest["spec"]["features"]]
    except (KeyError, TypeError, AttributeError, IndexError, BuildError):
        return False
    return all(isinstance(each, str) for each in told)


def read_origin(path: Path, manifest: Mapping[str, Any]) -> tuple[Path, str]:
    """The graph an engine was built from, and its hash then.

    Raises:
        CheckpointError: the engine's manifest names none.
    """
    try:
        (origin,) = [entry for name, entry in manifest["inputs"].items() if name.endswith(".onnx")]
        return Path(origin["path"]), str(origin["hash"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"the manifest of {path} names no graph it was built from: build it again") from error


def list_profiles(manifest: Mapping[str, Any]) -> tuple[ShapeRange, ...]:
    """The shapes that an engine takes, profile by profile."""
    spec = manifest["spec"]
    return tuple(
        ShapeRange(batch=tuple(each["batch"]), sequence=tuple(each["sequence"]))
        for each in (spec["shapes"], *spec["more_shapes"])
    )


def _same_runtime(built: str, installed: str, features: list[str]) -> bool:
    """Whether a library runs an engine: its own version does, or, where asked for, a later one of the same major."""
    if built == installed:
        return True
    before, now = ([int(part) for part in text.split(".") if part.isdigit()] for text in (built, installed))
    return "version_compatible" in features and before[:1] == now[:1] and before <= now


def _runs_on(gpu: Gpu, manifest: Mapping[str, Any]) -> bool:
    if manifest["gpu"] is not None:
        return bool(manifest["gpu"] == str(gpu))
    targets = manifest["hardware"]
    return gpu.capability in targets or not any(name.startswith("sm_") for name in targets)


def _targets(manifest: Mapping[str, Any]) -> str:
    return str(manifest["gpu"] or ", ".join(manifest["hardware"]))
