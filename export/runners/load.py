"""Any artefact as a runner: a checkpoint folder, an exported folder or an ONNX file."""

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from export.decoder_graphs import PAST
from export.engine_loading import require_runnable
from export.exported import MODEL_FILE
from export.openvino_model import Rest
from export.runners.base import Runner
from export.runners.onnxruntime_runner import OnnxRuntimeRunner
from export.runners.openvino_runner import OpenVinoRunner
from export.runners.torch_runner import TorchRunner
from qat.artefacts import read_manifest
from qat.checkpoint import load_checkpoint, read_config
from qat.checkpoints.base import load_tokenizer
from qat.errors import BuildError, CheckpointError
from qat.tasks import Task, find_task
from qat.tasks.record import read_task_record


@dataclass(frozen=True, kw_only=True, slots=True)
class Artefact:
    """An opened artefact: what runs it, and what its data needs.

    Attributes:
        runner: not yet entered.
        task: the one it was made for.
        columns: how the data's columns were called.
        max_length: tokens a row keeps, None for the most the checkpoint takes.
    """

    runner: Runner
    task: Task
    tokenizer: PreTrainedTokenizerBase
    config: PreTrainedConfig
    columns: dict[str, str]
    max_length: int | None


def load_runner(
    artefact: Path | str, *, task: str | None = None, optimized: bool = True, threads: int = 0, kept: bool = False
) -> Runner:
    """The runner of an artefact, to be opened by ``with``.

    A graph runs on ONNX Runtime, unless its folder was exported for ``openvino``.

    Args:
        artefact: a checkpoint folder, an exported folder or an ONNX file.
        task: needed for a float checkpoint only; others remember theirs.
        optimized: whether the engine may change what was exported: ONNX Runtime rewrites the graph, OpenVINO runs its
            rest in BF16 where the CPU has it.
        threads: ONNX Runtime's or OpenVINO's threads, 0 for its own choice.
        kept: whether a decoder's graph answers the keys and values it keeps as well.

    Raises:
        CheckpointError: no such artefact, or a broken one.
        BuildError: an engine, which needs its GPU, a graph in BF16, or OpenVINO is not installed.
    """
    path = Path(artefact)
    _refuse_engine(path)
    if path.suffix == ".onnx" or (path / MODEL_FILE).is_file():
        graph = path if path.suffix == ".onnx" else path / MODEL_FILE
        manifest = read_manifest(graph.parent)
        quantized = bool(manifest.get("quantized"))
        if manifest.get("target") == "openvino":
            exact: Rest | None = None if optimized else "f32"
            return OpenVinoRunner(graph, quantized=quantized, rest=exact, threads=threads, kept=kept)
        _refuse_bf16(graph)
        rest = str(manifest.get("precision", "onnx"))
        precision = f"int8+{rest}" if quantized else rest
        return OnnxRuntimeRunner(graph, precision=precision, optimized=optimized, threads=threads, kept=kept)
    record = read_task_record(read_config(path), folder=path, given=task)
    model = load_checkpoint(path, find_task(record.name)).model
    return TorchRunner(model, inputs=record.inputs, outputs=record.outputs, axes=record.axes)


def open_artefact(artefact: Path | str, *, task: str | None = None, optimized: bool = True) -> Artefact:
    """An artefact with its runner, task and tokenizer.

    Raises:
        CheckpointError: no such artefact, one without its tokenizer and configuration beside it, or a decoder's step.
        DataError: a float checkpoint and no task.
        BuildError: an engine, which needs its GPU.
    """
    path = Path(artefact)
    _refuse_engine(path)
    folder = path.parent if path.suffix == ".onnx" else path
    config = read_config(folder)
    record = read_task_record(config, folder=folder, given=task)
    runner = load_runner(path, task=task, optimized=optimized)
    if any(name.startswith(PAST) for name in runner.inputs):
        raise CheckpointError(
            f"{path} says one token after what {MODEL_FILE} kept of a prompt, and takes no rows: give the folder, or "
            f"{folder / MODEL_FILE}"
        )
    return Artefact(
        runner=runner,
        task=find_task(record.name).settle(config),
        tokenizer=load_tokenizer(folder, config),
        config=config,
        columns=record.columns,
        max_length=record.max_length,
    )


def _refuse_engine(path: Path) -> None:
    if path.suffix == ".engine":
        require_runnable(path)
        raise BuildError(f"{path} is a TensorRT engine: it runs on its NVIDIA GPU; give the exported folder here")


def _refuse_bf16(graph: Path) -> None:
    if read_manifest(graph.parent).get("precision") == "bf16":
        raise BuildError(
            f"{graph} is in BF16, which ONNX Runtime does not compute on a CPU: build its engine, or export it again "
            "with --precision fp16 or fp32 to run it here"
        )
