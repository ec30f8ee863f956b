"""Who is timed: ONNX Runtime and OpenVINO, in float, with their own quantizers, and with ours."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from benchmarks.peers.float_graph import write_float_graph
from calibration.settings import CalibrationSettings
from calibration.stage import CalibrationStage, calibrate_checkpoint
from export.audit.onnxruntime_audit import audit_onnxruntime, count_int8
from export.exported import Lowering, lower_graph, trace_model
from export.openvino_model import Rest, compile_graph, count_int8_kernels
from export.runners.base import Runner
from export.runners.onnxruntime_runner import OnnxRuntimeRunner
from export.runners.openvino_runner import OpenVinoRunner
from export.targets import find_target
from qat.checkpoint import load_checkpoint
from qat.commands import encode_rows
from qat.errors import CheckpointError
from qat.recipe import Recipe
from qat.tasks import find_task
from qat.tasks.record import TaskRecord

BASELINE = "ONNX Runtime FP32"
OWN_DYNAMIC = "ONNX Runtime dynamic"
_RECIPES = ("linear", "tensorrt")
_TARGETS = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
_BATCH = 32

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Contestant:
    """A graph in a runtime: its name in the table, how many INT8 kernels it runs, and its runner."""

    name: str
    int8_kernels: int
    runner: Runner = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What is timed, and how.

    Attributes:
        checkpoint: a float checkpoint folder.
        task: Hugging Face's name of the task.
        data: rows to calibrate on.
        texts: how many of them.
        nncf: models that NNCF quantized, as OpenVINO files; called after their folders.
        threads: of every runtime, for each batch.
        streams: batches at once; several are tuned for throughput.
    """

    checkpoint: Path
    task: str
    data: Path
    texts: int = 256
    nncf: tuple[Path, ...] = ()
    threads: int = 1
    streams: int = 1


def prepare_contestants(setting: Setting, folder: Path, *, progress: Progress) -> list[Contestant]:
    """Everyone, :data:`BASELINE` first; their graphs are written into ``folder``.

    Raises:
        CheckpointError: no such checkpoint, one that is quantized, or no model of NNCF's at a path given.
        DataError: rows the task cannot use.
        BuildError: OpenVINO is not installed.
    """
    missing = [str(path) for path in setting.nncf if not path.is_file()]
    if missing:
        raise CheckpointError(
            f"no OpenVINO model at {missing[0]}: give the model.xml that python -m benchmarks.peers --keep saved"
        )
    progress("float graph")
    plain, dynamic = folder / "float.onnx", folder / "dynamic.onnx"
    write_float_graph(setting.checkpoint, setting.task, ("input_ids", "attention_mask"), plain)
    progress("ONNX Runtime's dynamic quantizer")
    _quantize_dynamic(plain, dynamic)
    found = [_onnxruntime(setting, BASELINE, plain, "fp32"), _onnxruntime(setting, OWN_DYNAMIC, dynamic, "int8+fp32")]
    found.append(_openvino(setting, "OpenVINO FP32", plain, quantized=False, rest="f32"))
    found.append(_openvino(setting, "OpenVINO float", plain, quantized=False))
    for recipe in _RECIPES:
        progress(f"qdq, recipe {recipe}")
        graphs = dict(_quantize(setting, recipe, folder))
        found.append(_onnxruntime(setting, f"qdq {recipe} on ONNX Runtime", graphs["onnxruntime"], "int8+fp32"))
        found.append(_openvino(setting, f"qdq {recipe} on OpenVINO", graphs["openvino"]))
    found += [_openvino(setting, f"{path.parent.name} on OpenVINO", path) for path in setting.nncf]
    return found


def _quantize_dynamic(source: Path, out: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises a preprocessing that the exporter has done
    try:
        quantize_dynamic(source, out)
    finally:
        root.setLevel(level)


def _quantize(setting: Setting, recipe: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """Our graph for each runtime; of a recipe both hold the same numbers."""
    task = find_task(setting.task)
    checkpoint = load_checkpoint(setting.checkpoint, task)
    rows = encode_rows(checkpoint, task, TaskRecord(name=task.name), setting.data, setting.texts)
    stage = CalibrationStage(
        recipe=Recipe.load(recipe).for_target("onnxruntime"),
        target="onnxruntime",
        settings=CalibrationSettings(method="percentile", samples=setting.texts),
        record=TaskRecord.of(task, {}, None, rows, checkpoint.model.config),
        batch_size=_BATCH,
    )
    calibrate_checkpoint(checkpoint, [rows], stage, out=folder / recipe, inputs={"data": setting.data})
    graph = trace_model(checkpoint.model)
    for target in _TARGETS:
        path = folder / f"{recipe}-{target}.onnx"
        ir.save(lower_graph(graph, Lowering(find_target(target), "fp32")), path)
        yield target, path


def _onnxruntime(setting: Setting, name: str, path: Path, precision: str) -> Contestant:
    runner = OnnxRuntimeRunner(path, precision=precision, threads=setting.threads)
    return Contestant(name=name, int8_kernels=count_int8(audit_onnxruntime(path)), runner=runner)


def _openvino(
    setting: Setting, name: str, path: Path, *, quantized: bool = True, rest: Rest | None = None
) -> Contestant:
    runner = OpenVinoRunner(
        path,
        quantized=quantized,
        rest=rest,
        threads=setting.threads * setting.streams,
        streams=setting.streams,
    )
    return Contestant(name=name, int8_kernels=count_int8_kernels(compile_graph(str(path), rest=rest)), runner=runner)
