"""A Q/DQ ONNX graph becomes an engine: one path for TensorRT 10 and 11 and TensorRT for RTX."""

import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from export.builders import (
    Progress,
    find_hardware,
    hardware_names,
    load_builder,
    make_builder,
    make_monitor,
    record_log,
)
from export.engine_spec import BuilderName, EngineSpec, Range, ShapeRange, parse_shapes
from export.graph_file import read_graph
from export.multiplies import count_macs
from qat.artefacts import atomic_file, hash_file, installed_versions, write_json
from qat.errors import BuildError, suggest

__all__ = [
    "BuilderName", "BuiltEngine", "EngineSpec", "ShapeRange", "build_engine", "parse_shapes", "write_engine",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltEngine:
    """A serialized engine and what is known of it.

    ``hardware`` names the targets; without any, ``portable`` (TensorRT for RTX: Ampere and later) or ``current``.
    ``layer_table`` is the builder's own table of the engine's kernels (``None`` where it printed none), ``seconds`` the
    wall time of the build, ``macs`` the multiply-accumulates by ONNX node (empty where a shape is dynamic).
    """

    plan: bytes = field(repr=False)
    layer_table: str | None = field(repr=False)
    builder: str
    version: str
    hardware: tuple[str, ...]
    seconds: float
    spec: EngineSpec
    macs: Mapping[str, int] = field(repr=False, default_factory=dict)


def _ignore_progress(phase: str, share: float) -> None:
    """Nothing: the caller wants no progress."""


def build_engine(onnx_path: Path, spec: EngineSpec, *, progress: Progress = _ignore_progress) -> BuiltEngine:
    """The engine that ``spec`` asks for, strongly typed, from the graph as it is.

    Args:
        onnx_path: an exported graph; its dynamic axes are named ``batch`` and ``sequence``.
        spec: builder, shapes and hardware; a single shape builds a static engine.
        progress: called with the phase and the share done; what it raises stops the build.

    Raises:
        BuildError: the builder is missing, lacks the hardware, or refuses the graph; an axis has no range.
        ExportError: no readable ONNX file.
    """
    onnx_path = Path(onnx_path)
    ranges = _input_ranges(onnx_path, spec.shapes)
    trt = load_builder(spec.builder)
    targets = find_hardware(trt, spec.builder, spec.hardware)
    started = time.perf_counter()
    with record_log(trt) as (logger, log):
        builder = make_builder(trt, logger, spec.builder)
        network = _read_network(trt, builder, logger, onnx_path)
        config = builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if targets:
            config.num_compute_capabilities = len(targets)
            for index, target in enumerate(targets):
                config.set_compute_capability(target, index)
        _set_shapes(builder, network, config, ranges)
        plan = _serialize(trt, builder, network, config, progress)
        if plan is None:
            said = _one_line(log.errors[-1]) if log.errors else "it does not say why"
            raise BuildError(f"the {spec.builder} builder cannot build {onnx_path}: {said}; run qdq lint on it")
        return BuiltEngine(
            plan=bytes(plan),
            layer_table=log.layer_table,
            builder=spec.builder,
            version=str(trt.__version__),
            hardware=spec.hardware or (("portable",) if hardware_names(trt) else ("current",)),
            seconds=time.perf_counter() - started,
            spec=spec,
            macs=count_macs(trt, network),
        )


def write_engine(engine: BuiltEngine, path: Path, *, onnx_path: Path, facts: Mapping[str, object]) -> None:
    """``path`` holding the engine, its layer table as ``<path>.layers`` and its manifest as ``<path>.json``.

    The manifest is written last and holds the hash of the other two, so a reader can tell a pair that does not match.

    Raises:
        OutputError: the folder cannot be written.
    """
    path, onnx_path = Path(path), Path(onnx_path)
    table = path.with_name(path.name + ".layers")
    with atomic_file(path) as staging:
        staging.write_bytes(engine.plan)
    if engine.layer_table is None:
        table.unlink(missing_ok=True)
    else:
        with atomic_file(table) as staging:
            staging.write_text(engine.layer_table, encoding="utf-8")
    inputs = {file.name: {"path": str(file), "hash": hash_file(file)} for file in _graph_files(onnx_path)}
    manifest = {
        "stage": "build",
        "spec": asdict(engine.spec),
        "engine": {"file": path.name, "hash": hash_file(path), "bytes": len(engine.plan)},
        "layer_table": None if engine.layer_table is None else {"file": table.name, "hash": hash_file(table)},
        "inputs": inputs,
        "versions": installed_versions(),
        "builder": {"name": engine.builder, "version": engine.version},
        "hardware": list(engine.hardware),
        "seconds": round(engine.seconds, 3),
        **facts,
    }
    write_json(path.with_name(path.name + ".json"), manifest)


def _graph_files(onnx_path: Path) -> list[Path]:
    graph = read_graph(onnx_path).graph
    outside = {ExternalDataInfo(t).location for t in graph.initializer if uses_external_data(t)}
    return [onnx_path, *(onnx_path.parent / name for name in sorted(outside))]


def _input_ranges(onnx_path: Path, shapes: ShapeRange) -> dict[str, list[Range]]:
    """The (smallest, usual, largest) size of every axis of every input."""
    graph = read_graph(onnx_path).graph
    weights = {tensor.name for tensor in graph.initializer}
    return {
        value.name: [_axis_range(value.name, dim, shapes.axes()) for dim in value.type.tensor_type.shape.dim]
        for value in graph.input
        if value.name not in weights
    }


def _axis_range(tensor: str, dim: onnx.TensorShapeProto.Dimension, known: Mapping[str, Range]) -> Range:
    if dim.HasField("dim_value"):
        return (int(dim.dim_value),) * 3
    name = dim.dim_param
    if name not in known:
        raise BuildError(f"input {tensor!r} has a dynamic axis {name!r} that has no range; {suggest(name, known)}")
    return known[name]


def _read_network(trt: Any, builder: Any, logger: Any, onnx_path: Path) -> Any:
    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if strongly_typed is None else 1 << int(strongly_typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx_path)):
        faults = [parser.get_error(index) for index in range(parser.num_errors)]
        raise BuildError(_explain_parse(onnx_path, faults))
    return network


def _explain_parse(onnx_path: Path, faults: list[Any]) -> str:
    if not faults:
        return f"the builder cannot read {onnx_path} and does not say why; export it again"
    first = faults[0]
    more = f" (and {len(faults) - 1} more nodes)" if len(faults) > 1 else ""
    return (
        f"the builder refuses node {first.node_name()!r} ({first.node_operator()}) of {onnx_path}: "
        f"{_one_line(first.desc())}{more}; export it again with --target rtx or tensorrt"
    )


def _set_shapes(builder: Any, network: Any, config: Any, ranges: Mapping[str, list[Range]]) -> None:
    """Fixed axes are written into the network, so that every shape is known; the others become a profile."""
    profile = builder.create_optimization_profile()
    dynamic = False
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        sizes = ranges[tensor.name]
        if all(low == high for low, _, high in sizes):
            tensor.shape = tuple(low for low, _, _ in sizes)
        else:
            profile.set_shape(tensor.name, *(tuple(size[kind] for size in sizes) for kind in range(3)))
            dynamic = True
    if dynamic:
        config.add_optimization_profile(profile)


def _serialize(trt: Any, builder: Any, network: Any, config: Any, progress: Progress) -> Any:
    monitor = make_monitor(trt, progress)
    config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if monitor.failure is not None:
        raise monitor.failure
    return plan


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()
