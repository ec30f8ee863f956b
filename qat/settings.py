"""Settings on the command line: ``--set stage.name=value`` as validated values for each stage."""

import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from qat.errors import RecipeError, suggest

NAMESPACES = ("task", "weights", "calibration", "finetune", "export", "build")
_OF_RECIPE = {"": "weights", "bits": "weight_bits"}
"""What ``weights`` and ``weights.bits`` are called in a recipe."""


def parse_overrides(assignments: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The overrides by stage; ``weights=per_tensor`` and ``weights.bits=7`` stand for the recipe's own.

    Raises:
        RecipeError: no ``=``, or a stage that does not exist.

    Values are TOML's; what is none is text.

    >>> parse_overrides(["finetune.max_steps=120", "weights=per_channel"])
    {'finetune': {'max_steps': 120}, 'weights': {'weights': 'per_channel'}}
    """
    found: dict[str, dict[str, Any]] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        stage, _, key = path.strip().partition(".")
        if not equals or not stage:
            raise RecipeError(f"--set '{assignment}' is no assignment: write --set stage.name=value")
        if stage not in NAMESPACES:
            raise RecipeError(f"--set '{assignment}': unknown stage '{stage}', {suggest(stage, NAMESPACES)}")
        known = key in _OF_RECIPE if stage == "weights" else bool(key)
        if not known:
            form = "weights=per_tensor or weights.bits=7" if stage == "weights" else f"{stage}.name=value"
            raise RecipeError(f"--set '{assignment}' names no setting: write --set {form}")
        found.setdefault(stage, {})[_OF_RECIPE[key] if stage == "weights" else key] = _read_value(text)
    return found


def require_stages(overrides: Mapping[str, object], known: Iterable[str]) -> None:
    """Passes when every overridden stage is one the command runs.

    Raises:
        RecipeError: one is not, and would be ignored.
    """
    stages = tuple(known)
    for stage in overrides:
        if stage not in stages:
            raise RecipeError(f"--set {stage}...: this command has no stage '{stage}', {suggest(stage, stages)}")


def _read_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # TOML's own is a ValueError; so is a number beyond measure
        return text
