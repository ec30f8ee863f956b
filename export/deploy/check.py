"""A model repository, checked before a server loads it: every model in it that ``qdq deploy`` wrote."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.deploy.check_config import explain_config
from export.deploy.check_files import explain_files, find_version
from export.deploy.check_run import Answered, run_samples
from export.deploy.interface import Interface, read_interface
from export.deploy.model_config import CONFIG_FILE, MODEL_FILES, read_config
from export.deploy.repository import DESCRIBED, STAGE
from export.deploy.settings import Provider
from export.deploy.warmup import explain_samples, read_samples
from export.engine_spec import ShapeRange
from export.runners.onnxruntime_runner import list_providers
from qat.artefacts import MANIFEST, read_manifest
from qat.errors import DeployError


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedModel:
    """A model that a server can load, as far as it can be told without one.

    Attributes:
        name: of the model.
        backend: Triton's.
        answered: its warm-up requests, as they were answered here; none where it was not run.
        not_run: why it was not run; empty where it was.
    """

    name: str
    backend: str
    answered: Sequence[Answered]
    not_run: str


def check_repository(
    repository: Path | str,
    *,
    provider: Provider = "cpu",
    progress: Callable[[int, int], None] = lambda done, models: None,
) -> list[CheckedModel]:
    """The models of a repository that ``qdq deploy`` wrote, each checked and, where it is a graph, run once.

    Args:
        repository: the folder that a server is started with.
        provider: what ONNX Runtime runs graphs on, here.
        progress: called before each model with how many are done, and all of them.

    Raises:
        DeployError: no such models, or what is wrong with them, all of it.
        BuildError: Triton's definitions or the provider are not installed.
    """
    folder = Path(repository)
    list_providers(provider)  # before anything else is read
    folders = _find_models(folder)
    problems: list[str] = []
    checked: list[CheckedModel] = []
    for done, model in enumerate(folders):
        progress(done, len(folders))
        config, facts = read_config(model / CONFIG_FILE), read_manifest(model)
        found = list(_explain(model, config, facts))
        if found:
            problems.extend(found)
            continue
        try:
            checked.append(_run(model, config, facts, provider))
        except DeployError as error:
            problems.append(str(error))
    if len(problems) == 1:
        raise DeployError(problems[0])
    if problems:
        listed = " ".join(f"({number}) {text}" for number, text in enumerate(problems, start=1))
        raise DeployError(f"{folder} has {len(problems)} mistakes: {listed}")
    return checked


def _find_models(folder: Path) -> list[Path]:
    """The models of a repository that are ours, by name."""
    if (folder / CONFIG_FILE).is_file():
        raise DeployError(f"{folder} is a model's own folder: give the repository, {folder.parent}")
    if not folder.is_dir():
        raise DeployError(f"no model repository at {folder}: give a folder that qdq deploy --triton wrote")
    found = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}") if not path.parent.name.startswith("."))
    ours = [path for path in found if read_manifest(path).get("stage") == STAGE]
    if not ours:
        there = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_dir())) or "nothing"
        raise DeployError(
            f"{folder} has no model that qdq deploy wrote, with its {MANIFEST}; there is {there}: write one with "
            f"qdq deploy EXPORTED_FOLDER --triton {folder}"
        )
    return ours


def _explain(folder: Path, config: Any, facts: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with one model."""
    missing = [name for name in DESCRIBED if name not in facts]
    if missing:
        yield f"{folder / MANIFEST} lacks '{missing[0]}', so it is not known what was deployed: deploy again"
        return
    there = _read_interface(folder, config)
    interface = there or Interface.from_facts(facts["interface"])
    yield from explain_files(folder, config, facts, interface)
    if there is None and config.backend != "tensorrt":
        return
    profiles = tuple(
        ShapeRange(batch=tuple(each["batch"]), sequence=tuple(each["sequence"])) for each in facts["profiles"]
    )
    mistakes = list(explain_config(config, folder, interface, profiles))
    yield from mistakes or explain_samples(config, folder)


def _read_interface(folder: Path, config: Any) -> Interface | None:
    """What the graph takes and gives; None where there is none: an engine's is read from its manifest."""
    version = find_version(folder)
    graph = None if version is None else version / MODEL_FILES["onnxruntime"]
    return None if config.backend == "tensorrt" or graph is None or not graph.is_file() else read_interface(graph)


def _run(folder: Path, config: Any, facts: Mapping[str, Any], provider: Provider) -> CheckedModel:
    reason = ""
    if config.backend == "tensorrt":
        reason = "an engine runs on its GPU only"
    elif provider == "cpu" and facts.get("precision") == "bf16":
        reason = "ONNX Runtime does not compute BF16 on a CPU"
    version = find_version(folder)
    assert version is not None
    samples = () if reason else read_samples(config, folder)
    answered = [] if reason else run_samples(version / MODEL_FILES["onnxruntime"], config, samples, provider)
    return CheckedModel(name=config.name, backend=config.backend, answered=answered, not_run=reason)
