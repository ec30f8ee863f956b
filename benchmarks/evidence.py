"""What the journey measures of what it made: accuracy step by step, the engine beside its float twin, latency."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx_ir as ir

from benchmarks.latency import measure_latency
from benchmarks.verdict import PROPORTIONS
from benchmarks.workload import Workload
from calibration.evidence import Evidence
from calibration.range_listing import describe_range, find_evidence
from calibration.range_rows import RangeRow
from export.audit.build_audit import audit_built
from export.engine import RUNTIME_AUDITS, BuildSettings, build
from export.engine_build import build_engine
from export.exported import ExportedModel, Lowering, lower_graph
from export.runners.base import Runner
from export.runners.onnxruntime_runner import OnnxRuntimeRunner
from export.runners.openvino_runner import OpenVinoRunner
from export.targets import find_target
from qat.checkpoint import Checkpoint
from qat.families import in_encoder_layer, longest_row
from qat.scoring import Accuracy
from qat.tasks.base import Encoded

BuildProgress = Callable[[str, float], None]


def describe_accuracy(
    stages: Mapping[str, Accuracy],
    exact: Accuracy,
    share_agreeing: Callable[[Accuracy, Accuracy], float],
    differ: Callable[[Accuracy, Accuracy], tuple[float, float]],
) -> dict[str, Any]:
    """The ladder of the headline on the same rows, all metrics, and the shares that torch and the graph answer alike.

    Args:
        stages: ``fp32``, ``ptq``, ``qat`` and ``onnx``.
        exact: the graph with its rest in FP32.
        share_agreeing: the share of answers that are the same in both.
        differ: the first's headline minus the second's on the same rows, and the paired standard error of that; asked
            where the headline is a share of rows.

    ``agreement`` is of the graph with its rest in FP32 (``exact``): the export itself. ``agreement_exported`` is of the
    graph as exported: an FP16 rest moves some values across a rounding tie, and INT8 spreads each such flip through the
    layers, so two correct engines then differ about as much as INT8 differs from float.
    """
    return {
        "metric": stages["fp32"].metric,
        "n": stages["fp32"].n,
        **{stage: found.value for stage, found in stages.items()},
        "metrics": {stage: dict(found.metrics) for stage, found in stages.items()},
        "to_fp32": {
            stage: dict(zip(("points", "error"), (100 * each for each in differ(found, stages["fp32"])), strict=True))
            for stage, found in stages.items()
            if stage != "fp32" and found.metric in PROPORTIONS
        },
        "agreement": share_agreeing(stages["qat"], exact),
        "agreement_exported": share_agreeing(stages["qat"], stages["onnx"]),
    }


def describe_engine(
    exported: ExportedModel, twin: ExportedModel, out: Path, settings: BuildSettings, progress: BuildProgress
) -> dict[str, Any]:
    """The engine's audit beside that of its float twin; the engine is written to ``out``.

    A target that builds no engine is audited in its runtime; its kernels are the nodes that runtime executes.
    """
    if exported.target in RUNTIME_AUDITS:
        audited = asdict(RUNTIME_AUDITS[exported.target](exported.onnx_path))
        return {
            "target": exported.target,
            "hardware": ["cpu"],
            "kernels": sum(audited["operations"].values()),
            **{name: audited[name] for name in ("int8_gemms", "float_gemms", "unplanned_gemms", "rows")},
            "int8_attentions": audited.get("int8_attentions"),
            "int8_mac_share": None,
            "activation_mb": None,
            "fp16_activation_mb": None,
            "audit": "complete",
        }
    engine = build(exported.folder, out, settings=settings, progress=progress)
    spec = engine.built.spec
    float_audit = audit_built(build_engine(twin.onnx_path, spec), twin.onnx_path, in_encoder=in_encoder_layer)
    facts = asdict(engine.audit)
    return {
        "target": exported.target,
        "hardware": list(engine.built.hardware),
        "shapes": ",".join(f"{b}x{s}" for b, s in zip(spec.shapes.batch, spec.shapes.sequence, strict=True)),
        "builder": f"{engine.built.builder} {engine.built.version}",
        **{name: facts[name] for name in facts if name not in ("status", "reason", "rows")},
        "fp16_activation_mb": float_audit.activation_mb,
        "fp16_layer_bytes": float_audit.layer_bytes,
        "fp16_kernels": float_audit.kernels,
        "audit": engine.audit.status if not engine.audit.reason else engine.audit.reason,
        "rows": facts["rows"],
    }


@contextmanager
def open_cpu_runners(graph: ir.Model, target: str) -> Iterator[list[Runner]]:
    """What runs a traced graph on this machine's CPU, float and INT8.

    ONNX Runtime in FP32 and in INT8; for ``openvino`` ONNX Runtime in FP32, and OpenVINO in float and in INT8.
    """
    lowerings = [("onnxruntime", False), ("onnxruntime", True)]
    if target == "openvino":
        lowerings = [("onnxruntime", False), ("openvino", False), ("openvino", True)]
    with TemporaryDirectory() as folder, ExitStack() as stack:
        runners: list[Runner] = []
        for name, quantized in lowerings:
            path = Path(folder) / f"{name}-{quantized}.onnx"
            ir.save(lower_graph(graph, Lowering(find_target(name), "fp32", quantized=quantized)), path)
            if name == "openvino":
                runners.append(OpenVinoRunner(path, quantized=quantized))
            else:
                runners.append(OnnxRuntimeRunner(path, precision="int8+fp32" if quantized else "fp32"))
        yield [stack.enter_context(runner) for runner in runners]


def compare_latency(
    runners: Sequence[Runner],
    checkpoint: Checkpoint,
    rows: Encoded,
    *,
    shapes: Sequence[tuple[int, int]],
    seconds: float,
    progress: Callable[[int, int], None],
) -> list[dict[str, Any]]:
    """Latency on this machine's CPU, one row a runner and shape.

    Args:
        runners: opened ones.
        checkpoint: what they run.
        rows: encoded texts to time on.
        shapes: (batch, sequence); those longer than the model takes are left out.
        seconds: time for one shape.
        progress: called before each shape with how many are done, and all of them.
    """
    pad = checkpoint.pad_token_id
    longest = longest_row(checkpoint.model.config)
    choices = next((size for size in rows.axes if isinstance(size, int)), None)
    workloads = [
        Workload(batch, sequence, pad_id=pad, choices=choices) for batch, sequence in shapes if sequence <= longest
    ]
    return [
        asdict(row) for row in measure_latency(runners, workloads, rows.sequences, seconds=seconds, progress=progress)
    ]


def describe_ranges(rows: Sequence[RangeRow], evidence: Evidence) -> list[dict[str, Any]]:
    """Every range with what is known of its tensor; ``depth`` is the layer it is reached at.

    >>> row = RangeRow(name="layer.3.output.dense.input_quantizer", source="calibrated", depth=0, amax=2.5, scale=0.02)
    >>> described, = describe_ranges([row], {})
    >>> described["role"], described["depth"], described["histogram"]
    ('output.dense.input', 3, None)
    """
    described = []
    for row in rows:
        found = find_evidence(row, evidence)
        told = describe_range(row, found)
        told["depth"] = told.pop("layer")
        described.append({**told, "histogram": None if found is None else found.magnitudes.to_dict()})
    return described


def summarize(report: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The report's headline figures, for a terminal."""
    accuracy, engine = report["accuracy"], report["engine"]
    kept = accuracy["onnx"] / accuracy["fp32"] if accuracy["fp32"] else None
    return [
        (f"{accuracy['metric']} fp32", accuracy["fp32"]),
        (f"{accuracy['metric']} calibrated", accuracy["ptq"]),
        (f"{accuracy['metric']} fine-tuned", accuracy["qat"]),
        (f"{accuracy['metric']} exported", accuracy["onnx"]),
        ("kept", None if kept is None else f"{100 * kept:.2f} %"),
        ("same answer, torch and graph", f"{100 * accuracy['agreement']:.2f} %"),
        ("INT8 GEMMs / planned but float / not planned", _counts(engine)),
        ("INT8 fused attentions", engine["int8_attentions"]),
        ("size fp32 -> int8", f"{report['size_mb']['fp32']:.1f} -> {report['size_mb']['int8']:.1f} MB"),
    ]


def _counts(engine: Mapping[str, Any]) -> str:
    return f"{engine['int8_gemms']} / {engine['float_gemms']} / {engine['unplanned_gemms']}"
