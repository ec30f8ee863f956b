"""A Triton model repository with an artefact in it: written whole, with the manifest that says what it is made of."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from export.deploy.model_config import CONFIG_FILE, LABELS_FILE, MODEL_FILES, make_config, write_config
from export.deploy.plan import Plan, make_plan
from export.deploy.settings import DeploySettings
from export.deploy.source import Source, open_source
from export.deploy.warmup import WARMUP_FOLDER, add_warmup
from export.exported import MODEL_FILE
from export.graph_file import list_files
from qat.artefacts import atomic_folder, hash_file, read_manifest, write_manifest
from qat.errors import ExportError, OutputError
from qat.quiet import quiet_transformers
from qat.vocabulary import fingerprint_vocabulary

STAGE = "deploy"
DESCRIBED = ("labels", "model", "vocabulary", "interface", "profiles")
"""What the manifest says that a check needs."""

TOKENIZER_FOLDER = "tokenizer"
VERSION_FOLDER = "1"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployment:
    """A model in a repository.

    Attributes:
        folder: the model's, in the repository.
        plan: how a server runs it.
    """

    folder: Path
    plan: Plan


def deploy(
    artefact: Path | str,
    repository: Path | str,
    *,
    name: str | None = None,
    settings: DeploySettings | None = None,
    task: str | None = None,
) -> Deployment:
    """The model of an artefact in a repository, which is made where there is none; the model's folder is replaced.

    Args:
        artefact: an exported folder, or an engine beside its manifest.
        repository: the folder that a server is started with.
        name: what clients call the model; None for the artefact's own.
        settings: how it is served.
        task: for a folder that does not say its own.

    Raises:
        CheckpointError: no such artefact, or one that is not complete.
        ExportError: a name, backend, provider or shapes that do not go with it, or a tokenizer of another model.
        BuildError: an engine that Triton does not run, a batch outside its profiles, or Triton's definitions missing.
        OutputError: the repository cannot be written, or has a model of that name from elsewhere.
    """
    path, repository = Path(artefact), Path(repository)
    source = open_source(path, task=task)
    plan = make_plan(source, settings or DeploySettings())
    called = _require_name(name if name is not None else _default_name(path))
    folder = repository / called
    _require_ours(folder)
    config = make_config(called, source.interface, plan, source.facts)
    known = source.interface.vocabulary or len(source.tokenizer)
    samples = add_warmup(config, source.interface, plan.shapes, min(known, len(source.tokenizer)))
    if source.record.name == "text-classification" and source.labels:
        config.output[0].label_filename = LABELS_FILE
    texts = {CONFIG_FILE: write_config(config)}
    if source.labels:
        texts[LABELS_FILE] = "".join(f"{label}\n" for label in _require_lines(source))
    with atomic_folder(folder) as staging:
        _copy_model(source, staging / VERSION_FOLDER, MODEL_FILES[plan.backend])
        _copy_tokenizer(source, staging / TOKENIZER_FOLDER)
        (staging / WARMUP_FOLDER).mkdir()
        for file, content in samples.items():
            (staging / WARMUP_FOLDER / file).write_bytes(content)
        for file, text in texts.items():
            (staging / file).write_text(text, encoding="utf-8")
        facts = _describe(source, plan, staging / VERSION_FOLDER / MODEL_FILES[plan.backend])
        write_manifest(staging, stage=STAGE, inputs={"artefact": path, "exported": source.folder}, facts=facts)
    return Deployment(folder=folder, plan=plan)


def _describe(source: Source, plan: Plan, model: Path) -> Mapping[str, object]:
    return {
        "task": source.record.name,
        "target": source.facts.get("target"),
        "precision": source.facts.get("precision"),
        "quantized": source.facts.get("quantized"),
        "model": {"file": f"{VERSION_FOLDER}/{model.name}", "hash": hash_file(model)},
        "builder": None if source.engine is None else source.engine["builder"],
        "interface": asdict(source.interface),
        "profiles": [asdict(profile) for profile in source.profiles],
        "plan": asdict(plan),
        "labels": len(source.labels),
        "vocabulary": fingerprint_vocabulary(source.tokenizer),
        "max_length": source.longest,
    }


def _default_name(path: Path) -> str:
    """The artefact's own name: a folder's, or an engine's without its ending."""
    place = path.resolve()
    return place.parent.name if place.name == MODEL_FILE else place.name if place.is_dir() else place.stem


def _require_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ExportError(
            f"--name {name!r} is no name for a model: expected letters, digits, '.', '_' and '-', a letter or digit "
            "first; give another"
        )
    return name


def _require_ours(folder: Path) -> None:
    """Passes when a model may be written there: no one else's is replaced."""
    if folder.is_dir() and any(folder.iterdir()) and read_manifest(folder).get("stage") != STAGE:
        raise OutputError(f"{folder} exists and was not written by qdq deploy: choose another --name, or move it away")


def _require_lines(source: Source) -> tuple[str, ...]:
    """The labels, which are written one a line."""
    broken = [label for label in source.labels if label.splitlines() != [label]]
    if broken:
        raise ExportError(
            f"label {broken[0]!r} of {source.folder} is not one line, as a server's label file needs it: rename it in "
            "id2label and label2id of config.json"
        )
    return source.labels


def _copy_model(source: Source, folder: Path, name: str) -> None:
    folder.mkdir()
    if source.engine is not None:
        shutil.copyfile(source.path, folder / name)
        return
    for file in list_files(source.onnx_path):
        target = folder / file.relative_to(source.folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def _copy_tokenizer(source: Source, folder: Path) -> None:
    """The tokenizer's files, and the configuration that some of them are loaded by."""
    folder.mkdir()
    with quiet_transformers():
        source.tokenizer.save_pretrained(folder)
    shutil.copyfile(source.folder / "config.json", folder / "config.json")
