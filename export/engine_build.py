"""A Q/DQ ONNX graph becomes an engine: one path for TensorRT 10 and 11 and TensorRT for RTX."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from export.build_errors import explain_build, explain_parse
from export.builders import (
    Progress,
    find_hardware,
    hardware_names,
    load_builder,
    make_builder,
    make_monitor,
    record_log,
    set_features,
)
from export.engine_spec import (
    BuilderName,
    EngineSpec,
    Range,
    ShapeRange,
    parse_shapes,
)
from export.gpu import find_gpu
from export.graph_file import read_graph
from export.multiplies import count_macs
from export.timing_cache import keep_timings
from export.valid_graph import read_valid_graph
from qat.errors import BuildError, suggest

__all__ = ["BuilderName", "BuiltEngine", "EngineSpec", "ShapeRange", "build_engine", "parse_shapes"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltEngine:
    """A serialized engine and what is known of it.

    ``hardware`` names the targets; without any, ``portable`` (TensorRT for RTX: Ampere and later) or ``current``, which
    is ``gpu``. ``layer_table`` is the builder's own table of the engine's kernels (``None`` where it printed none),
    ``seconds`` the wall time of the build, ``macs`` the multiply-accumulates by ONNX node (empty where a shape is
    dynamic).
    """

    plan: bytes = field(repr=False)
    layer_table: str | None = field(repr=False)
    builder: str
    version: str
    hardware: tuple[str, ...]
    seconds: float
    spec: EngineSpec
    gpu: str | None = None
    macs: Mapping[str, int] = field(repr=False, default_factory=dict)


def _ignore_progress(phase: str, share: float) -> None:
    """Nothing: the caller wants no progress."""


def build_engine(
    onnx_path: Path, spec: EngineSpec, *, progress: Progress = _ignore_progress, timings: Path | None = None
) -> BuiltEngine:
    """The engine that ``spec`` asks for, strongly typed, from the graph as it is.

    Args:
        onnx_path: an exported graph; its dynamic axes are named ``batch`` and ``sequence``.
        spec: builder, shapes, hardware and features; a single shape builds a static engine.
        progress: called with the phase and the share done; what it raises stops the build.
        timings: a folder for TensorRT's timing cache, ``None`` to measure anew.

    Raises:
        BuildError: the builder is missing, lacks the hardware or a feature, or refuses the graph; an axis has no range.
        ExportError: no readable ONNX file, or a graph that contradicts itself.
        OutputError: ``timings`` cannot be written.
    """
    onnx_path = Path(onnx_path)
    read_valid_graph(onnx_path)
    ranges = [_input_ranges(onnx_path, shapes) for shapes in spec.profiles]
    trt = load_builder(spec.builder)
    targets, gpu = find_hardware(trt, spec.builder, spec.hardware), find_gpu()
    started = time.perf_counter()
    with record_log(trt) as (logger, log):
        builder = make_builder(trt, logger, spec.builder)
        network = _read_network(trt, builder, logger, onnx_path)
        config = builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        set_features(trt, config, spec)
        if targets:
            config.num_compute_capabilities = len(targets)
            for index, target in enumerate(targets):
                config.set_compute_capability(target, index)
        _set_shapes(builder, network, config, ranges)
        with keep_timings(trt, config, timings, gpu):
            plan = _serialize(trt, builder, network, config, progress)
            if plan is None:
                raise BuildError(explain_build(onnx_path, spec.builder, log.errors, spec.features))
        here_only = not hardware_names(trt)
        return BuiltEngine(
            plan=bytes(plan),
            layer_table=log.layer_table,
            builder=spec.builder,
            version=str(trt.__version__),
            hardware=spec.hardware or (("current",) if here_only else ("portable",)),
            seconds=time.perf_counter() - started,
            spec=spec,
            gpu=str(gpu) if here_only and gpu is not None else None,
            macs=count_macs(trt, network),
        )


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
        raise BuildError(explain_parse(onnx_path, faults))
    return network


def _set_shapes(builder: Any, network: Any, config: Any, profiles: Sequence[Mapping[str, list[Range]]]) -> None:
    """Axes fixed in every profile are written into the network, so that every shape is known; the others vary."""
    made = [builder.create_optimization_profile() for _ in profiles]
    dynamic = False
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if tensor.name not in profiles[0]:
            known = suggest(tensor.name, profiles[0])
            raise BuildError(f"the builder calls an input {tensor.name!r}, which the graph has not; {known}; rename it")
        sizes = [ranges[tensor.name] for ranges in profiles]
        if all(axes == sizes[0] for axes in sizes) and all(low == high for low, _, high in sizes[0]):
            tensor.shape = tuple(low for low, _, _ in sizes[0])
            continue
        dynamic = True
        for profile, axes in zip(made, sizes, strict=True):
            profile.set_shape(tensor.name, *(tuple(size[kind] for size in axes) for kind in range(3)))
    if dynamic:
        for profile in made:
            config.add_optimization_profile(profile)


def _serialize(trt: Any, builder: Any, network: Any, config: Any, progress: Progress) -> Any:
    monitor = make_monitor(trt, progress)
    config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if monitor.failure is not None:
        raise monitor.failure
    return plan
