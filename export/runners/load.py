"""Any artefact as a runner: a checkpoint folder, an exported folder or an ONNX file."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from export.exported import MODEL_FILE
from export.runners.base import Runner
from export.runners.onnxruntime_runner import OnnxRuntimeRunner
from export.runners.torch_runner import TorchRunner
from qat.artefacts import read_manifest
from qat.checkpoint import load_checkpoint, read_config
from qat.errors import BuildError, CheckpointError, DataError
from qat.tasks import Task, find_task


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


def load_runner(artefact: Path | str, *, task: str | None = None, optimized: bool = True, threads: int = 0) -> Runner:
    """The runner of an artefact, to be opened by ``with``.

    Args:
        artefact: a checkpoint folder, an exported folder or an ONNX file.
        task: needed for a float checkpoint only; others remember theirs.
        optimized: whether ONNX Runtime may rewrite the graph.
        threads: ONNX Runtime's threads, 0 for its own choice.

    Raises:
        CheckpointError: no such artefact, or a broken one.
        BuildError: an engine, which needs its GPU.
    """
    path = Path(artefact)
    if path.suffix == ".engine":
        raise BuildError(f"{path} is a TensorRT engine: it runs on its NVIDIA GPU; evaluate the exported folder here")
    if path.suffix == ".onnx" or (path / MODEL_FILE).is_file():
        graph = path if path.suffix == ".onnx" else path / MODEL_FILE
        return OnnxRuntimeRunner(graph, precision=_precision_of(graph.parent), optimized=optimized, threads=threads)
    found = _find_task(path, task)
    model = load_checkpoint(path, found).model
    inputs = tuple(_stored_task(path).get("inputs", ("input_ids", "attention_mask")))
    return TorchRunner(model, inputs=inputs, outputs=found.outputs)


def open_artefact(artefact: Path | str, *, task: str | None = None, optimized: bool = True) -> Artefact:
    """An artefact with its runner, task and tokenizer.

    Raises:
        CheckpointError: no such artefact, or one without its tokenizer and configuration beside it.
        DataError: a float checkpoint and no task.
    """
    path = Path(artefact)
    folder = path.parent if path.suffix in (".onnx", ".engine") else path
    config = read_config(folder)
    stored = _stored_task(folder)
    found = _find_task(folder, task)
    return Artefact(
        runner=load_runner(path, task=task, optimized=optimized),
        task=found,
        tokenizer=AutoTokenizer.from_pretrained(folder, trust_remote_code=False),
        config=config,
        columns=dict(stored.get("columns", {})),
        max_length=stored.get("max_length"),
    )


def _find_task(folder: Path, given: str | None) -> Task:
    stored = _stored_task(folder).get("name")
    if given is None and stored is None:
        raise DataError(f"{folder} does not say its task: add --task, for instance --task text-classification")
    return find_task(str(given or stored))


def _stored_task(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} has no config.json: give a folder that qdq wrote, with its files together")
    values = json.loads(path.read_text(encoding="utf-8")).get("quantization_config") or {}
    task = values.get("task", {})
    return task if isinstance(task, dict) else {}


def _precision_of(folder: Path) -> str:
    manifest = read_manifest(folder)
    rest = str(manifest.get("precision", "onnx"))
    return f"int8+{rest}" if manifest.get("quantized") else rest
