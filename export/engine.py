"""From an exported folder to an engine, and from either to the audit of what really runs in INT8."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from export.audit.build_audit import audit_built
from export.audit.engine_audit import AuditRow, EngineAudit, unavailable_audit
from export.audit.onnxruntime_audit import audit_onnxruntime
from export.audit.openvino_audit import audit_openvino
from export.audit.runtime_audit import RuntimeAudit
from export.engine_build import BuiltEngine, build_engine, write_engine
from export.engine_spec import BuilderName, EngineSpec, parse_shapes
from export.exported import MODEL_FILE
from qat.artefacts import hash_file, read_manifest
from qat.errors import BuildError, CheckpointError, ExportError
from qat.families import in_encoder_layer

BuildProgress = Callable[[str, float], None]
RUNTIME_AUDITS: Mapping[str, Callable[[Path], RuntimeAudit]] = {
    "onnxruntime": audit_onnxruntime,
    "openvino": audit_openvino,
}
"""The audits of the targets that build no engine."""
RTX_HARDWARE = ("sm_86", "sm_89", "sm_120")
"""What an RTX engine is built for unless asked otherwise: Ampere, Ada and Blackwell cards."""


class BuildSettings(BaseModel):
    """How an engine is built, frozen.

    Attributes:
        shapes: BATCHxSEQUENCE, smallest, usual, largest; one entry for a fixed shape.
        hardware: compute capabilities; only TensorRT for RTX builds for several, and without a GPU.

    Raises:
        BuildError: shapes that do not parse.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    shapes: str = "1x1,8x64,32x128"
    hardware: tuple[str, ...] | None = Field(default=None, strict=False)

    @field_validator("shapes")
    @classmethod
    def _require_shapes(cls, shapes: str) -> str:
        parse_shapes(shapes)
        return shapes

    def spec_for(self, builder: BuilderName, *, longest: int | None = None) -> EngineSpec:
        """What to ask of that builder.

        Args:
            builder: who builds.
            longest: the tokens that the model takes at most; shapes nobody asked for are cut to it.

        Raises:
            BuildError: shapes that somebody asked for and the model does not take.
        """
        shapes = parse_shapes(self.shapes)
        if longest is not None and shapes.sequence[2] > longest:
            if "shapes" in self.model_fields_set:
                raise BuildError(
                    f"shapes {self.shapes} go up to {shapes.sequence[2]} tokens, but the model takes {longest}: "
                    f"use --shapes with sequences up to {longest}"
                )
            smallest, usual, _ = shapes.sequence
            shapes = replace(shapes, sequence=(min(smallest, longest), min(usual, longest), longest))
        default = RTX_HARDWARE if builder == "rtx" else ()
        hardware = default if self.hardware is None else self.hardware
        return EngineSpec(builder=builder, shapes=shapes, hardware=hardware)


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """A built engine on disk with its audit."""

    path: Path
    built: BuiltEngine
    audit: EngineAudit


def build(
    folder: Path | str,
    out: Path | str,
    *,
    builder: BuilderName | None = None,
    settings: BuildSettings | None = None,
    progress: BuildProgress = lambda phase, share: None,
) -> Engine:
    """The engine at ``out``, audited; manifest and layer table beside it.

    Args:
        folder: an exported folder, or an ONNX file.
        out: the engine file.
        builder: ``rtx`` or ``tensorrt``; None for the one the folder was exported for.
        settings: shapes and hardware.
        progress: called with the builder's phase and the share of it done.

    Raises:
        ExportError: the folder was exported for a target that is no engine.
        BuildError: the builder is missing or refuses the graph, or shapes that the model does not take.
        OutputError: ``out`` cannot be written.
    """
    onnx_path = find_graph(folder)
    folder = onnx_path.parent
    spec = (settings or BuildSettings()).spec_for(builder or _builder_of(folder), longest=_longest_sequence(folder))
    built = build_engine(onnx_path, spec, progress=progress)
    audit = audit_built(built, onnx_path, in_encoder=in_encoder_layer)
    write_engine(built, Path(out), onnx_path=onnx_path, facts={"audit": asdict(audit)})
    return Engine(path=Path(out), built=built, audit=audit)


def audit(artefact: Path | str, *, settings: BuildSettings | None = None) -> EngineAudit | RuntimeAudit:
    """What really runs in INT8: of an engine as its manifest tells, of a graph by building it or in its runtime.

    Args:
        artefact: an exported folder, an ONNX file or an engine file.
        settings: shapes and hardware of the engine that is built to audit a graph.

    Raises:
        CheckpointError: no such artefact.
        BuildError: the builder is missing or refuses the graph.
    """
    path = Path(artefact)
    if path.suffix == ".engine":
        return _audit_of_manifest(path)
    onnx_path = find_graph(path)
    runtime = RUNTIME_AUDITS.get(str(read_manifest(onnx_path.parent).get("target")))
    if runtime is not None:
        return runtime(onnx_path)
    spec = (settings or BuildSettings()).spec_for("rtx", longest=_longest_sequence(onnx_path.parent))
    return audit_built(build_engine(onnx_path, spec), onnx_path, in_encoder=in_encoder_layer)


def find_graph(artefact: Path | str) -> Path:
    """The ONNX file of an exported folder, or the file itself.

    Raises:
        CheckpointError: there is none.
    """
    path = Path(artefact)
    graph = path if path.suffix == ".onnx" else path / MODEL_FILE
    if not graph.is_file():
        raise CheckpointError(f"no ONNX graph at {path}: give an ONNX file, or a folder that qdq export wrote")
    return graph


def _longest_sequence(folder: Path) -> int | None:
    """What the configuration beside a graph says, ``None`` where there is none to be read."""
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    longest = values.get("max_position_embeddings") if isinstance(values, dict) else None
    return longest if isinstance(longest, int) else None


def _builder_of(folder: Path) -> Literal["rtx", "tensorrt"]:
    target = read_manifest(folder).get("target", "rtx")
    if target not in ("rtx", "tensorrt"):
        raise ExportError(
            f"{folder} was exported for '{target}', which builds no engine: export again with --target rtx or tensorrt"
        )
    return "rtx" if target == "rtx" else "tensorrt"


def _audit_of_manifest(path: Path) -> EngineAudit:
    if not path.is_file():
        raise CheckpointError(f"no engine at {path}: give an engine that qdq build wrote")
    manifest = path.with_name(path.name + ".json")
    if not manifest.is_file():
        return unavailable_audit(f"no manifest {manifest.name} beside the engine")
    try:
        values: Mapping[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
        hashed, stored = values["engine"]["hash"], values["audit"]
        rows = tuple(AuditRow(**{**row, "nodes": tuple(row["nodes"])}) for row in stored["rows"])
        found = EngineAudit(**{**stored, "rows": rows})
    except (ValueError, KeyError, TypeError):
        return unavailable_audit(f"{manifest.name} holds no audit that can be read; build the engine again")
    if hashed != hash_file(path):
        return unavailable_audit(f"{manifest.name} belongs to another engine")
    return found
