"""Any artefact, opened: what runs it, and what its data needs."""

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from export.decoder_graphs import PAST
from export.engine_loading import read_origin, require_runnable
from export.exported import MODEL_FILE
from export.runners.base import Runner
from export.runners.continuing_runner import ContinuingRunner
from export.runners.load import load_runner
from export.runners.load_decoder import load_decoder
from export.runners.running import Running
from qat.artefacts import hash_file, read_manifest
from qat.batches import find_pad
from qat.checkpoint import read_config
from qat.checkpoints.base import load_tokenizer
from qat.errors import CheckpointError
from qat.tasks import Task, find_task
from qat.tasks.record import read_task_record
from qat.tasks.text_generation import find_end
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


def open_artefact(
    artefact: Path | str,
    *,
    task: str | None = None,
    optimized: bool = True,
    running: Running | None = None,
    new_tokens: int | None = None,
) -> Artefact:
    """An artefact with its runner, task and tokenizer; an engine's lie where it was built from.

    Args:
        artefact: a checkpoint folder, an exported folder, an ONNX file or an engine.
        task: as of ``load_runner``.
        optimized: as of ``load_runner``.
        running: as of ``load_runner``.
        new_tokens: how many a text-generation model says after a row; None to score its rows.

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
    tokenizer = load_tokenizer(folder, config)
    require_tokenizer(tokenizer, config, folder, fingerprint=read_manifest(folder).get("vocabulary"))
    found = find_task(record.name).settle(config)
    runner: Runner
    if found.continues and new_tokens is not None:
        decoder = load_decoder(path, optimized=optimized, running=running)
        pad = find_pad(tokenizer)
        runner = ContinuingRunner(decoder, new_tokens=new_tokens, ends=find_end(tokenizer), pad=pad)
    else:
        runner = load_runner(path, task=task, optimized=optimized, running=running)
    if any(name.startswith(PAST) for name in runner.inputs):
        raise CheckpointError(
            f"{path} says one token after what {MODEL_FILE} kept of a prompt, and takes no rows: give the folder, or "
            f"{folder / MODEL_FILE}"
        )
    return Artefact(
        folder=folder,
        runner=runner,
        task=found,
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
