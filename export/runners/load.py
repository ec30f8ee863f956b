"""Any artefact as a runner: a checkpoint folder, an exported folder, an ONNX file or an engine."""

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from export.decoder_graphs import PAST
from export.engine_loading import read_origin, require_runnable
from export.exported import MODEL_FILE
from export.openvino_model import Rest
from export.runners.base import Runner
from export.runners.onnxruntime_runner import OnnxRuntimeRunner
from export.runners.openvino_runner import OpenVinoRunner
from export.runners.running import Running
from export.runners.tensorrt_runner import TensorRtRunner
from export.runners.torch_runner import TorchRunner
from qat.artefacts import hash_file, read_manifest
from qat.checkpoint import load_checkpoint, read_config
from qat.checkpoints.base import load_tokenizer
from qat.errors import BuildError, CheckpointError
from qat.tasks import Task, find_task
from qat.tasks.record import read_task_record
from qat.vocabulary import require_tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Artefact:
    """An opened artefact: what runs it, and what its data needs.

    Attributes:
        folder: where its tokenizer and configuration lie.
        runner: not yet entered.
        task: the one it was made for.
        columns: how the data's columns were called.
        max_length: tokens a row keeps, None for the most the checkpoint takes.
    """

    folder: Path
    runner: Runner
    task: Task
    tokenizer: PreTrainedTokenizerBase
    config: PreTrainedConfig
    columns: dict[str, str]
    max_length: int | None


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
            _refuse_provider(running, "OpenVINO")
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
    _refuse_provider(running, "torch")
    record = read_task_record(read_config(path), folder=path, given=task)
    model = load_checkpoint(path, find_task(record.name)).model
    return TorchRunner(model, inputs=record.inputs, outputs=record.outputs, axes=record.axes)


def open_artefact(
    artefact: Path | str, *, task: str | None = None, optimized: bool = True, running: Running | None = None
) -> Artefact:
    """An artefact with its runner, task and tokenizer; an engine's lie where it was built from.

    Raises:
        CheckpointError: no such artefact, one without its tokenizer and configuration beside it, or with those of
            another model, or a decoder's step.
        DataError: a float checkpoint and no task.
        BuildError: as ``load_runner``.
    """
    path = Path(artefact)
    folder = _find_folder(path)
    config = read_config(folder)
    record = read_task_record(config, folder=folder, given=task)
    runner = load_runner(path, task=task, optimized=optimized, running=running)
    if any(name.startswith(PAST) for name in runner.inputs):
        raise CheckpointError(
            f"{path} says one token after what {MODEL_FILE} kept of a prompt, and takes no rows: give the folder, or "
            f"{folder / MODEL_FILE}"
        )
    tokenizer = load_tokenizer(folder, config)
    require_tokenizer(tokenizer, config, folder, fingerprint=read_manifest(folder).get("vocabulary"))
    return Artefact(
        folder=folder,
        runner=runner,
        task=find_task(record.name).settle(config),
        tokenizer=tokenizer,
        config=config,
        columns=record.columns,
        max_length=record.max_length,
    )


def _find_folder(path: Path) -> Path:
    """Where the tokenizer and the configuration of an artefact lie."""
    if path.suffix != ".engine":
        return path.parent if path.suffix == ".onnx" else path
    graph, built = read_origin(path, require_runnable(path))
    if not graph.is_file():
        raise CheckpointError(
            f"{path} was built from {graph}, which is gone, and its tokenizer with it: keep the exported folder, or "
            "build the engine again"
        )
    if hash_file(graph) != built:
        raise CheckpointError(
            f"{path} was built from another graph than {graph} is now, so the tokenizer there may not be its own: "
            "build the engine again with qdq build"
        )
    return graph.parent


def _refuse_provider(running: Running, runtime: str) -> None:
    if running.provider is not None:
        raise BuildError(
            f"--provider {running.provider} is one of ONNX Runtime's, but this artefact runs on {runtime}: leave it "
            "out, or export for rtx, tensorrt or onnxruntime"
        )


def _refuse_bf16(graph: Path, rest: str) -> None:
    if rest == "bf16":
        raise BuildError(
            f"{graph} is in BF16, which ONNX Runtime does not compute on a CPU: build its engine, or export it again "
            "with --precision fp16 or fp32 to run it here"
        )
