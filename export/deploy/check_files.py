"""The files of a model in a repository: the model, its labels, its tokenizer, each the one that was deployed."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from export.deploy.interface import Interface
from export.deploy.model_config import LABELS_FILE, MODEL_FILES
from export.deploy.repository import TOKENIZER_FOLDER
from export.deploy.source import explain_vocabulary, load_tokenizer
from qat.artefacts import hash_file
from qat.errors import CheckpointError
from qat.vocabulary import fingerprint_vocabulary


def find_version(folder: Path) -> Path | None:
    """The version of a model that a server loads, the one of the largest number; None where there is none."""
    versions = [path for path in folder.iterdir() if path.is_dir() and path.name.isdecimal() and int(path.name) > 0]
    return max(versions, key=lambda path: int(path.name), default=None)


def explain_files(folder: Path, config: Any, facts: Mapping[str, Any], interface: Interface) -> Iterator[str]:
    """What is missing from a model's folder, or is another model's.

    Args:
        folder: the model's.
        config: its configuration.
        facts: its manifest.
        interface: of the model that is there; of the one that was deployed where none is.
    """
    yield from _explain_model(folder, config, facts)
    yield from _explain_labels(folder, config, facts, interface)
    yield from _explain_tokenizer(folder, facts, interface)


def _explain_model(folder: Path, config: Any, facts: Mapping[str, Any]) -> Iterator[str]:
    version = find_version(folder)
    if version is None:
        yield f"{folder} has no version folder: expected one with a number for its name, as 1/; deploy again"
        return
    expected = version / MODEL_FILES.get(config.backend, MODEL_FILES["onnxruntime"])
    if not expected.is_file():
        there = ", ".join(sorted(path.name for path in version.iterdir())) or "nothing"
        yield f"{expected} is missing, there is {there}: put the model there, or deploy again"
    elif config.backend == "tensorrt" and hash_file(expected) != facts["model"]["hash"]:
        yield (
            f"{expected} is not the engine that was deployed, so its profiles are not known: deploy the new one with "
            "qdq deploy"
        )


def _explain_labels(folder: Path, config: Any, facts: Mapping[str, Any], interface: Interface) -> Iterator[str]:
    files = {output.name: output.label_filename for output in config.output if output.label_filename}
    if not files and facts["labels"]:
        files = {interface.outputs[0].name: LABELS_FILE}  # those of tokens, which Triton itself does not read
    for output in interface.outputs:
        if output.name not in files:
            continue
        path, expected = folder / files[output.name], output.axes[-1]
        if not path.is_file():
            yield (
                f"{path} is missing: output '{output.name}' answers with {expected} labels, and that file names them, "
                "one a line; put it there, or deploy again"
            )
            continue
        count = len(path.read_text(encoding="utf-8").splitlines())
        if count != expected:
            yield (
                f"{path} has {count} labels, but output '{output.name}' answers with {expected}: give one a line, in "
                "the order of the model's id2label, or deploy again"
            )


def _explain_tokenizer(folder: Path, facts: Mapping[str, Any], interface: Interface) -> Iterator[str]:
    place = folder / TOKENIZER_FOLDER
    if not place.is_dir():
        yield f"{place} is missing: clients tokenize with it; put the model's tokenizer there, or deploy again"
        return
    try:
        tokenizer = load_tokenizer(place)
    except CheckpointError as error:
        yield str(error)
        return
    too_many = explain_vocabulary(tokenizer, interface.vocabulary, where=place)
    if too_many:
        yield too_many
    elif fingerprint_vocabulary(tokenizer) != facts["vocabulary"]:
        yield (
            f"the tokenizer in {place} has another vocabulary than the one deployed with the model: its tokens "
            "would mean other words; put the model's own there, or deploy again"
        )
