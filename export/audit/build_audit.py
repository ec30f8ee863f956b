"""An ONNX graph is built, dynamic and at one fixed shape, and the audit of what came out."""

from collections.abc import Callable
from pathlib import Path

from export.audit.engine_audit import EngineAudit, audit_table
from export.audit.layer_table import read_layer_table, split_profiles
from export.audit.products import read_products
from export.engine_build import BuiltEngine, build_engine
from export.engine_spec import BuilderName, EngineSpec, Range, ShapeRange


def build_twin(
    onnx_path: Path, *, builder: BuilderName = "rtx", hardware: tuple[str, ...] = (), fixed: tuple[int, int] = (8, 128)
) -> BuiltEngine:
    """The engine of the same graph at one (batch, sequence): its table has bytes where a dynamic one prints -1.

    Raises:
        BuildError: as for ``build_engine``.
    """
    return build_engine(onnx_path, EngineSpec(builder=builder, shapes=ShapeRange.fixed(*fixed), hardware=hardware))


def audit_engine(
    onnx_path: Path,
    *,
    hardware: tuple[str, ...],
    shapes: ShapeRange,
    fixed: tuple[int, int] = (8, 128),
    in_encoder: Callable[[str], bool],
    builder: BuilderName = "rtx",
) -> EngineAudit:
    """The audit of the engine of ``shapes``, with bytes and work from a twin at ``fixed`` rows and tokens.

    Raises:
        BuildError: as for ``build_engine``.
        ExportError: no readable ONNX file.
    """
    engine = build_engine(onnx_path, EngineSpec(builder=builder, shapes=shapes, hardware=hardware))
    return audit_built(engine, onnx_path, fixed=fixed, in_encoder=in_encoder)


def audit_built(
    engine: BuiltEngine, onnx_path: Path, *, fixed: tuple[int, int] = (8, 128), in_encoder: Callable[[str], bool]
) -> EngineAudit:
    """The audit of an engine just built from ``onnx_path``; only the twin is built.

    Of several profiles, the one that loses most counts. Where the first profile does not take ``fixed`` rows and
    tokens, the twin gets the nearest that it takes.

    Raises:
        BuildError: as for ``build_engine``.
        ExportError: no readable ONNX file.
    """
    graph = read_products(onnx_path)
    spec = engine.spec
    rows, tokens = _nearest(spec.shapes.batch, fixed[0]), _nearest(spec.shapes.sequence, fixed[1])
    twin = build_twin(onnx_path, builder=spec.builder, hardware=spec.hardware, fixed=(rows, tokens))
    audits = [
        audit_table(
            graph,
            table,
            twin=read_layer_table(twin.layer_table),
            tokens=rows * tokens,
            macs=twin.macs,
            in_encoder=in_encoder,
        )
        for table in split_profiles(read_layer_table(engine.layer_table), len(spec.profiles))
    ]
    return max(audits, key=_losses)


def _losses(audit: EngineAudit) -> tuple[bool, int, int]:
    return audit.status != "complete", audit.float_gemms + audit.split_attentions, audit.unplanned_gemms


def _nearest(sizes: Range, wanted: int) -> int:
    """The size that an axis takes and that is nearest to the one wanted.

    >>> _nearest((1, 8, 32), 128), _nearest((1, 8, 32), 16), _nearest((64, 64, 64), 8)
    (32, 16, 64)
    """
    return min(max(wanted, sizes[0]), sizes[2])
