"""``qdq deploy``: an artefact as a Triton model repository, or such a repository checked before it is served."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from export.deploy.check import check_repository
from export.deploy.repository import Deployment, deploy
from export.deploy.settings import DeploySettings, Provider
from qat.console import print_json, print_table, show_progress
from qat.errors import DeployError, suggest
from qat.options import JsonOption, TaskOption
from qat.recipe import validate_settings

_PROVIDERS = ("cpu", "cuda", "tensorrt")


def deploy_command(
    artefact: Annotated[Path | None, typer.Argument(help="Exported folder, or an engine file.")] = None,
    triton: Annotated[Path | None, typer.Option("--triton", help="Model repository to write the model into.")] = None,
    check: Annotated[Path | None, typer.Option("--check", help="Model repository to check instead.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="What clients call it; default: the artefact's.")] = None,
    instances: Annotated[int, typer.Option("--instances", min=1, help="Of the model, on each GPU or the CPU.")] = 1,
    max_batch: Annotated[
        int | None, typer.Option("--max-batch", min=1, help="Rows put together; default: the largest of --shapes.")
    ] = None,
    backend: Annotated[str | None, typer.Option("--backend", help="Triton's: onnxruntime or tensorrt.")] = None,
    provider: Annotated[
        str | None,
        typer.Option("--provider", help="ONNX Runtime's: cpu, cuda, tensorrt; with --check: run on it."),
    ] = None,
    shapes: Annotated[
        str | None, typer.Option("--shapes", help="BATCHxSEQUENCE to warm up at: smallest,usual,largest.")
    ] = None,
    queue_delay: Annotated[
        int, typer.Option("--queue-delay", min=0, help="Microseconds a request waits to share a batch.")
    ] = 1000,
    task: TaskOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a Triton Inference Server model repository, or check one before it is served.

    Example: qdq deploy onnx --triton models --name supersense --instances 2
    Example: qdq deploy --check models
    """
    if check is not None:
        if artefact is not None or triton is not None:
            raise DeployError("--check reads a repository that is there: give no artefact and no --triton with it")
        result = _check(check, provider)
    elif artefact is None or triton is None:
        raise DeployError(
            "expected an artefact and where to deploy it: qdq deploy EXPORTED_FOLDER --triton REPOSITORY, or "
            "qdq deploy --check REPOSITORY"
        )
    else:
        given = {"backend": backend, "provider": provider, "max_batch": max_batch, "shapes": shapes}
        values: dict[str, Any] = {"instances": instances, "queue_delay": queue_delay}
        values |= {key: value for key, value in given.items() if value is not None}
        settings = validate_settings(DeploySettings, values, where="deploy settings")
        with show_progress("deploy"):
            made = deploy(artefact, triton, name=name, settings=settings, task=task)
        result = _describe(made)
    if as_json:
        print_json(result)


def _describe(made: Deployment) -> dict[str, Any]:
    plan = made.plan
    rows = [
        ("backend", plan.backend if plan.provider is None else f"{plan.backend} on {plan.provider}"),
        ("instances", plan.instances),
        ("largest batch", plan.max_batch or "none: one shape"),
        ("preferred batches", ", ".join(map(str, plan.preferred)) or "-"),
        ("warm-up", ", ".join(f"{rows}x{tokens}" for rows, tokens in plan.shapes)),
    ]
    print_table(f"{made.folder}: check it with qdq deploy --check {made.folder.parent}", ("fact", "value"), rows)
    return {"out": str(made.folder), **asdict(plan)}


def _check(repository: Path, provider: str | None) -> dict[str, Any]:
    if provider is not None and provider not in _PROVIDERS:
        raise DeployError(f"--provider {provider!r} is none of ONNX Runtime's here: {suggest(provider, _PROVIDERS)}")
    on = cast("Provider", provider or "cpu")
    with show_progress("check") as advance:
        checked = check_repository(repository, provider=on, progress=advance)
    rows = [
        (model.name, model.backend, each.request, ", ".join(f"{key} {value}" for key, value in each.shapes.items()))
        for model in checked
        for each in model.answered
    ]
    rows += [(model.name, model.backend, "not run here", model.not_run) for model in checked if model.not_run]
    title = f"{repository}: {len(checked)} models checked, graphs run once on ONNX Runtime's {on} provider"
    print_table(title, ("model", "backend", "warm-up", "answer"), rows)
    return {"repository": str(repository), "provider": on, "models": [asdict(model) for model in checked]}
