"""Recipes: which tensors are quantized and how, as strict, frozen data read from TOML."""

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qat.errors import RecipeError, suggest
from qat.spec import Bits, ScaleType

Role = Literal["weight", "input", "residual", "add_local", "attention", "preactivation", "product"]
PRODUCTS: tuple[Role, ...] = ("preactivation", "product")
"""The roles of what a GEMM gives before its bias; float wherever its weight is."""

WeightGranularity = Literal["per_channel", "per_tensor"]
WeightRanges = Literal["follow", "stored"]
Sharing = Literal["tensor", "reader"]

TARGET_WEIGHTS: dict[str, WeightGranularity] = {
    "rtx": "per_tensor",
    "tensorrt": "per_channel",
    "onnxruntime": "per_channel",
    "openvino": "per_channel",
}
"""The weight granularity each target runs best and safest with; stored in the checkpoint by calibration."""

CPU_TARGETS = ("onnxruntime", "openvino")
"""The targets that multiply unsigned activations by signed weights on a CPU."""


Settings = TypeVar("Settings", bound=BaseModel)


class Rule(BaseModel):
    """Quantize, or leave float, the ``roles`` of every module whose path matches ``layers``; the last match wins."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    layers: str = Field(description="a shell-style pattern over module paths inside the model, as 'encoder.layer.*'")
    roles: tuple[Role, ...] = Field(min_length=1, strict=False)
    quantize: bool


class Recipe(BaseModel):
    """How a model is quantized, frozen.

    Attributes:
        name: what reports call it.
        weights: one range for each output channel, or one for the weight (q, k and v tied).
        weight_bits: 7 leaves the upper half of INT8 to the sums: CPUs without VNNI saturate with 8.
        weight_ranges: ``follow`` makes a weight's range its largest value, whatever training does to it; ``stored``
            keeps an imported one.
        sharing: ``tensor`` gives a tensor that several layers read one quantizer; ``reader`` gives each its own.
        scale_type: what scales are rounded to; ``float32`` keeps imported ranges exactly.
        rules: ordered; the last one that matches a module and role decides.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    weights: WeightGranularity = "per_channel"
    weight_bits: Bits = 8
    weight_ranges: WeightRanges = "follow"
    sharing: Sharing = "tensor"
    scale_type: ScaleType = "float16"
    rules: tuple[Rule, ...] = Field(min_length=1, strict=False)

    @classmethod
    def load(cls, source: str | Path) -> Self:
        """The shipped recipe of that name, or the one in a TOML file.

        Raises:
            RecipeError: no such recipe or file, not TOML, a wrong key or value.
        """
        if str(source) in shipped_recipes():
            text = files("qat").joinpath("recipes", f"{source}.toml").read_text(encoding="utf-8")
        elif Path(source).is_file():
            text = Path(source).read_text(encoding="utf-8", errors="replace")
        else:
            known = suggest(str(source), shipped_recipes())
            raise RecipeError(f"recipe '{source}' is neither shipped nor a file: {known}")
        try:
            return cls.from_mapping(tomllib.loads(text), where=str(source))
        except (ValueError, RecursionError) as error:  # TOML's own is a ValueError; so is a number beyond measure
            raise RecipeError(f"recipe '{source}' is not TOML: {error}") from error

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, where: str) -> Self:
        """The recipe those values describe.

        Raises:
            RecipeError: every wrong key and value, named together with what is allowed.
        """
        return validate_settings(cls, values, where=f"recipe '{where}'")

    def to_toml(self) -> str:
        """The recipe as ``load`` reads it.

        >>> Recipe.from_mapping(tomllib.loads(Recipe.load("linear").to_toml()), where="") == Recipe.load("linear")
        True
        """
        return tomli_w.dumps(self.model_dump(mode="json"))

    def for_target(self, target: str) -> Self:
        """This recipe with the weight granularity the target wants.

        Raises:
            RecipeError: an unknown target.
        """
        if target not in TARGET_WEIGHTS:
            raise RecipeError(f"target '{target}' is unknown: {suggest(target, TARGET_WEIGHTS)}")
        return self.model_copy(update={"weights": TARGET_WEIGHTS[target]})


def shipped_recipes() -> list[str]:
    """The names of the recipes that come with the package."""
    folder = files("qat").joinpath("recipes")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def validate_settings(kind: type[Settings], values: Mapping[str, Any], *, where: str) -> Settings:
    """``values`` as the frozen settings ``kind``.

    Raises:
        RecipeError: all wrong keys (with the nearest right one) and values at once, in one line.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = [problem for problem in error.errors() if not _follows_from_another(problem, error)]
        raise RecipeError(f"{where}: {'; '.join(_describe(problem, kind) for problem in problems)}") from error


def _follows_from_another(problem: Any, error: ValidationError) -> bool:
    """Whether it only says that a collection is short of the items that are wrong themselves."""
    path = problem["loc"]
    return any(other["loc"][: len(path)] == path and len(other["loc"]) > len(path) for other in error.errors())


def _describe(problem: Any, kind: type[BaseModel]) -> str:
    path = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = Rule.model_fields if "rules" in problem["loc"] else kind.model_fields
        return f"unknown key '{path}', {suggest(str(problem['loc'][-1]), known)}"
    return f"{path}: {problem['msg']} ({problem['input']!r} given)" if path else str(problem["msg"])
