"""Any artefact as a runner: a checkpoint folder, an exported folder, an ONNX file or an engine."""

from pathlib import Path

from export.exported import MODEL_FILE
from export.openvino_model import Rest
from export.runners.base import Runner
from export.runners.onnxruntime_runner import OnnxRuntimeRunner
from export.runners.openvino_runner import OpenVinoRunner
from export.runners.running import Running, refuse_provider
from export.runners.tensorrt_runner import TensorRtRunner
from export.runners.torch_runner import TorchRunner
from qat.artefacts import read_manifest
from qat.checkpoint import load_checkpoint, read_config
from qat.errors import BuildError
from qat.tasks import find_task
from qat.tasks.record import read_task_record


def load_runner(
    artefact: Path | str,
    *,
    task: str | None = None,
    optimized: bool = True,
    threads: int = 0,
    kept: bool = False,
    running: Running | None = None,
) -> Runner:
    """The runner of an artefact, to be opened by ``with``.

    A graph runs on ONNX Runtime, unless its folder was exported for ``openvino``.

    Args:
        artefact: a checkpoint folder, an exported folder, an ONNX file or an engine.
        task: needed for a float checkpoint only; others remember theirs.
        optimized: whether the engine may change what was exported: ONNX Runtime rewrites the graph, OpenVINO runs its
            rest in BF16 where the CPU has it.
        threads: ONNX Runtime's or OpenVINO's threads, 0 for its own choice.
        kept: whether a decoder's graph answers the keys and values it keeps as well.
        running: on which device of the runtime and tuned for what; its threads are taken where ``threads`` is 0.

    Raises:
        CheckpointError: no such artefact, or a broken one.
        BuildError: an engine that this machine cannot run, a graph in BF16, OpenVINO or a provider that is not
            installed.
    """
    path, running = Path(artefact), running or Running()
    if path.suffix == ".engine":
        return TensorRtRunner(path)
    if path.suffix == ".onnx" or (path / MODEL_FILE).is_file():
        graph = path if path.suffix == ".onnx" else path / MODEL_FILE
        manifest = read_manifest(graph.parent)
        quantized = bool(manifest.get("quantized"))
        if manifest.get("target") == "openvino":
            refuse_provider(running, "OpenVINO")
            exact: Rest | None = None if optimized else "f32"
            most = threads or running.threads
            return OpenVinoRunner(
                graph, quantized=quantized, rest=exact, threads=most, streams=running.at_once, kept=kept
            )
        rest = str(manifest.get("precision", "onnx"))
        _refuse_bf16(graph, rest)
        return OnnxRuntimeRunner(
            graph,
            precision=f"int8+{rest}" if quantized else rest,
            optimized=optimized,
            threads=threads or running.threads_each,
            kept=kept,
            provider=running.provider,
        )
    refuse_provider(running, "torch")
    record = read_task_record(read_config(path), folder=path, given=task)
    model = load_checkpoint(path, find_task(record.name)).model
    return TorchRunner(model, inputs=record.inputs, outputs=record.outputs, axes=record.axes)


def _refuse_bf16(graph: Path, rest: str) -> None:
    if rest == "bf16":
        raise BuildError(
            f"{graph} is in BF16, which ONNX Runtime does not compute on a CPU: build its engine, or export it again "
            "with --precision fp16 or fp32 to run it here"
        )
