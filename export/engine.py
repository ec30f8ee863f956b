"""From an exported folder to an engine, and from either to the audit of what really runs in INT8."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from export.audit.build_audit import audit_built
from export.audit.engine_audit import EngineAudit, unavailable_audit
from export.audit.onnxruntime_audit import audit_onnxruntime
from export.audit.openvino_audit import audit_openvino
from export.audit.runtime_audit import RuntimeAudit
from export.engine_build import BuiltEngine, build_engine
from export.engine_files import (
    explain_rebuild,
    manifest_of,
    read_built,
    read_manifest_of,
    read_origin,
    write_engine,
)
from export.engine_loading import list_profiles, require_manifest
from export.engine_spec import (
    BuilderName,
    EngineSpec,
    Feature,
    ShapeRange,
    find_profile,
    parse_profiles,
    split_buckets,
)
from export.exported import MODEL_FILE
from export.graph_file import read_fixed_shape
from qat.artefacts import read_manifest, require_writable
from qat.checkpoint import read_config
from qat.errors import BuildError, CheckpointError, ExportError
from qat.families import in_encoder_layer, longest_row

TIMING_CACHE = "timing-cache"
"""The folder beside an engine that TensorRT's kernel timings are kept in, unless another is asked for."""
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
        shapes: BATCHxSEQUENCE, smallest, usual, largest; one entry for a fixed shape, a semicolon between profiles.
        buckets: sequence lengths that split the one profile of ``shapes`` into one each.
        hardware: compute capabilities; only TensorRT for RTX builds for several, and without a GPU.
        features: ``version_compatible`` (later runtimes of the same major version run it), ``refittable`` (its weights
            can be exchanged), where the builder offers them.
        timing_cache: the folder of TensorRT's timing cache; None for one beside the engine.

    Raises:
        BuildError: shapes or buckets that make no sense.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    shapes: str = "1x1,8x64,32x128"
    buckets: tuple[int, ...] = Field(default=(), strict=False)
    hardware: tuple[str, ...] | None = Field(default=None, strict=False)
    features: tuple[Feature, ...] = Field(default=(), strict=False)
    timing_cache: Path | None = Field(default=None, strict=False)

    @model_validator(mode="after")
    def _require_profiles(self) -> Self:
        self.profiles()
        return self

    def profiles(self) -> tuple[ShapeRange, ...]:
        """The shapes of every profile.

        Raises:
            BuildError: shapes or buckets that make no sense.
        """
        profiles = parse_profiles(self.shapes)
        if not self.buckets:
            return profiles
        if len(profiles) > 1:
            raise BuildError(
                f"--buckets split one profile, but --shapes {self.shapes!r} has {len(profiles)}: give one of the two"
            )
        return split_buckets(profiles[0], self.buckets)

    def spec_for(
        self, builder: BuilderName, *, longest: int | None = None, fixed: tuple[int, int] | None = None
    ) -> EngineSpec:
        """What to ask of that builder.

        Args:
            builder: who builds.
            longest: the tokens that the model takes at most; shapes nobody asked for are cut to it.
            fixed: the one (batch, sequence) that the graph takes, if it takes no other.

        Raises:
            BuildError: shapes that somebody asked for and the model or the graph does not take.
        """
        profiles = self.profiles() if fixed is None else self._require_fixed(ShapeRange.fixed(*fixed))
        most = max(profile.sequence[2] for profile in profiles)
        if longest is not None and most > longest:
            if self.model_fields_set & {"shapes", "buckets"}:
                raise BuildError(
                    f"shapes {self.shapes} go up to {most} tokens, but the model takes {longest}: "
                    f"use --shapes with sequences up to {longest}"
                )
            smallest, usual, _ = profiles[0].sequence
            cut = (min(smallest, longest), min(usual, longest), longest)
            profiles = (replace(profiles[0], sequence=cut),)
        default = RTX_HARDWARE if builder == "rtx" else ()
        return EngineSpec(
            builder=builder,
            shapes=profiles[0],
            more_shapes=profiles[1:],
            hardware=default if self.hardware is None else self.hardware,
            features=self.features,
        )

    def _require_fixed(self, fixed: ShapeRange) -> tuple[ShapeRange, ...]:
        asked = bool(self.model_fields_set & {"shapes", "buckets"})
        if asked and self.profiles() != (fixed,):
            raise BuildError(
                f"shapes {self.shapes} were asked for, but the graph was exported for {fixed} alone: "
                f"use --shapes {fixed}, or export it again without export.shape"
            )
        return (fixed,)


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """A built engine on disk with its audit; ``built_because`` is empty where an earlier one still held."""

    path: Path
    built: BuiltEngine
    audit: EngineAudit
    built_because: str


def build(
    folder: Path | str,
    out: Path | str,
    *,
    builder: BuilderName | None = None,
    settings: BuildSettings | None = None,
    progress: BuildProgress = lambda phase, share: None,
) -> Engine:
    """The engine at ``out``, audited; manifest and layer table beside it.

    An engine that is there already is kept where nothing it was made from has changed: graph, shapes and settings,
    builder version and, where the builder builds for this machine, its GPU.

    Args:
        folder: an exported folder, or an ONNX file.
        out: the engine file.
        builder: ``rtx`` or ``tensorrt``; None for the one the folder was exported for.
        settings: shapes, hardware, features.
        progress: called with the builder's phase and the share of it done.

    Raises:
        ExportError: the folder was exported for a target that is no engine.
        BuildError: the builder is missing or refuses the graph, or shapes that the model does not take.
        OutputError: ``out`` cannot be written.
    """
    onnx_path, out, settings = find_graph(folder), Path(out), settings or BuildSettings()
    folder = onnx_path.parent
    spec = settings.spec_for(
        builder or _builder_of(folder), longest=_longest_sequence(folder), fixed=read_fixed_shape(onnx_path)
    )
    origin = read_origin(onnx_path, spec)
    reason = explain_rebuild(out, origin)
    if not reason:
        kept = _audit_of_manifest(out)
        if kept.status == "complete":
            return Engine(path=out, built=read_built(out, origin), audit=kept, built_because="")
        reason = "it has no audit"
    require_writable(out)
    timings = settings.timing_cache or out.parent / TIMING_CACHE
    built = build_engine(onnx_path, spec, progress=progress, timings=timings)
    audit = audit_built(built, onnx_path, in_encoder=in_encoder_layer)
    write_engine(built, out, onnx_path=onnx_path, facts={"audit": asdict(audit)})
    return Engine(path=out, built=built, audit=audit, built_because=reason)


def audit(
    artefact: Path | str,
    *,
    settings: BuildSettings | None = None,
    progress: BuildProgress = lambda phase, share: None,
) -> EngineAudit | RuntimeAudit:
    """What really runs in INT8: of an engine as its manifest tells, of a graph by building it or in its runtime.

    Args:
        artefact: an exported folder, an ONNX file or an engine file.
        settings: shapes and hardware of the engine that is built to audit a graph; an engine must take the shapes.
        progress: as of ``build``, where an engine is built.

    Raises:
        CheckpointError: no such artefact, or an engine that was changed after it was built.
        BuildError: the builder is missing or refuses the graph, or shapes that an engine does not take.
    """
    path = Path(artefact)
    if path.suffix == ".engine":
        if settings is not None and "shapes" in settings.model_fields_set:
            _require_covered(path, settings.profiles())
        return _audit_of_manifest(path)
    onnx_path = find_graph(path)
    runtime = RUNTIME_AUDITS.get(str(read_manifest(onnx_path.parent).get("target")))
    if runtime is not None:
        return runtime(onnx_path)
    spec = (settings or BuildSettings()).spec_for(
        "rtx", longest=_longest_sequence(onnx_path.parent), fixed=read_fixed_shape(onnx_path)
    )
    return audit_built(build_engine(onnx_path, spec, progress=progress), onnx_path, in_encoder=in_encoder_layer)


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
        return longest_row(read_config(folder))
    except CheckpointError:
        return None


def _builder_of(folder: Path) -> Literal["rtx", "tensorrt"]:
    target = read_manifest(folder).get("target", "rtx")
    if target not in ("rtx", "tensorrt"):
        raise ExportError(
            f"{folder} was exported for '{target}', which builds no engine: export again with --target rtx or tensorrt"
        )
    return "rtx" if target == "rtx" else "tensorrt"


def _require_covered(path: Path, wanted: Sequence[ShapeRange]) -> None:
    profiles = list_profiles(require_manifest(path))
    for shapes in wanted:
        for end in (0, 2):
            find_profile(profiles, shapes.batch[end], shapes.sequence[end])


def _audit_of_manifest(path: Path) -> EngineAudit:
    manifest = read_manifest_of(path)
    if not manifest_of(path).is_file():
        return unavailable_audit(f"no manifest {manifest_of(path).name} beside the engine")
    try:
        return _audit_schema().validate_python(manifest["audit"])
    except (KeyError, ValidationError):
        return unavailable_audit(f"{manifest_of(path).name} holds no audit that can be read; build the engine again")


@cache
def _audit_schema() -> TypeAdapter[EngineAudit]:
    return TypeAdapter(EngineAudit)
