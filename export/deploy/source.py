"""What is deployed: an exported folder, or an engine with the exported folder it was built from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from export.deploy.interface import Interface, read_interface
from export.engine_loading import list_profiles, read_origin, require_manifest
from export.engine_spec import ShapeRange
from export.exported import MODEL_FILE
from qat.artefacts import hash_file, read_manifest
from qat.checkpoint import read_config
from qat.errors import CheckpointError, ExportError
from qat.families import longest_row
from qat.tasks.record import TaskRecord, read_task_record


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """An artefact that can be deployed.

    Attributes:
        path: as it was given.
        folder: the exported folder.
        config: the model's.
        record: its task.
        tokenizer: beside the graph.
        interface: of the graph.
        facts: the export's manifest.
        engine: the engine's manifest, None for a graph.
    """

    path: Path
    folder: Path
    config: PreTrainedConfig
    record: TaskRecord
    tokenizer: PreTrainedTokenizerBase
    interface: Interface
    facts: Mapping[str, object]
    engine: Mapping[str, Any] | None

    @property
    def onnx_path(self) -> Path:
        """The graph."""
        return self.folder / MODEL_FILE

    @property
    def profiles(self) -> tuple[ShapeRange, ...]:
        """The shapes an engine takes, none for a graph."""
        return () if self.engine is None else list_profiles(self.engine)

    @property
    def longest(self) -> int:
        """Tokens a row may have."""
        positions = longest_row(self.config)
        limits = [positions, self.record.max_length or positions]
        if self.profiles:
            limits.append(max(profile.sequence[2] for profile in self.profiles))
        return min(limits)

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of what the task answers with, in order; none where it answers with something else."""
        known = {int(number): str(name) for number, name in (self.config.id2label or {}).items()}
        named = self.record.name in ("text-classification", "token-classification") and len(known) > 1
        return tuple(known[number] for number in sorted(known)) if named else ()


def open_source(path: Path, *, task: str | None = None) -> Source:
    """The artefact at ``path`` with all that goes into a repository.

    Raises:
        CheckpointError: no such artefact, an engine without its manifest, a folder without configuration or tokenizer.
        ExportError: an unreadable graph, an engine whose folder is gone, or a tokenizer of another model.
        DataError: neither the folder nor ``task`` says the task.
    """
    engine = require_manifest(path) if path.is_file() and path.suffix != ".onnx" else None
    folder = _folder_of(path, engine)
    if not (folder / MODEL_FILE).is_file():
        raise CheckpointError(
            f"{path} cannot be deployed: expected an exported folder with its {MODEL_FILE}, or an engine; "
            "run qdq export first"
        )
    config = read_config(folder)
    source = Source(
        path=path,
        folder=folder,
        config=config,
        record=read_task_record(config, folder=folder, given=task),
        tokenizer=load_tokenizer(folder),
        interface=read_interface(folder / MODEL_FILE),
        facts=read_manifest(folder),
        engine=engine,
    )
    _require_inputs(source)
    mismatch = explain_vocabulary(source.tokenizer, source.interface.vocabulary, where=folder)
    if mismatch:
        raise ExportError(mismatch)
    return source


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder.

    Raises:
        CheckpointError: none that can be read.
    """
    missing = f"{folder} has no tokenizer that can be read"
    if not any(folder.glob("*tokenizer*")) and not any(folder.glob("vocab*")):
        raise CheckpointError(f"{missing}: copy the checkpoint's tokenizer files there, or export again")
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        said = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{missing} ({said}): copy the checkpoint's tokenizer files there") from error
    return tokenizer


def explain_vocabulary(tokenizer: PreTrainedTokenizerBase, known: int | None, *, where: Path) -> str:
    """Why a tokenizer cannot belong to a model of so many tokens; empty where it can."""
    given = len(tokenizer)
    if known is None or given <= known:
        return ""
    return (
        f"the tokenizer in {where} has {given} tokens, but the model's embeddings hold {known}: the two belong to "
        "different models; put the tokenizer of the checkpoint that was exported there"
    )


def _require_inputs(source: Source) -> None:
    """Passes for one graph that reads token ids, and nothing but integers."""
    graphs = source.facts.get("graphs")
    if isinstance(graphs, dict) and len(graphs) > 1:
        raise ExportError(
            f"{source.folder} holds a decoder's {len(graphs)} graphs ({', '.join(graphs.values())}), which a server "
            "would have to call in turns: expected an encoder's one; run the decoder with qdq's own runners"
        )
    given = {tensor.name: tensor.data_type for tensor in source.interface.inputs}
    if "input_ids" not in given or set(given.values()) != {"TYPE_INT64"}:
        written = ", ".join(f"{name} ({kind})" for name, kind in given.items()) or "nothing"
        raise ExportError(
            f"{source.onnx_path} takes {written}: expected input_ids and others of TYPE_INT64; give a folder that qdq "
            "export wrote"
        )


def _folder_of(path: Path, engine: Mapping[str, Any] | None) -> Path:
    """The exported folder of an artefact; an engine's is the one it was built from, unchanged since."""
    if engine is None:
        return path.parent if path.name == MODEL_FILE else path
    graph, built = read_origin(path, engine)
    if not graph.is_file():
        raise ExportError(
            f"{path} was built from {graph}, which is not there: tokenizer and labels are taken from that folder; "
            "put it back, or build the engine again with qdq build"
        )
    if hash_file(graph) != built:
        raise ExportError(
            f"{path} was built from {graph}, which has changed since: the tokenizer there may be another model's; "
            "build the engine again with qdq build"
        )
    return graph.parent
