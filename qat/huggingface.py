"""transformers' side of a quantized model: its configuration entry, and how it is saved and loaded.

Importing this module teaches ``from_pretrained`` the method ``qdq``; without it such a folder loads as a float model.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

from torch import Tensor
from transformers import PreTrainedModel
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from qat.errors import CheckpointError, suggest
from qat.pooling import read_pooling, set_pooling
from qat.quantizer import named_quantizers, quantizers_without_range
from qat.recipe import Recipe
from qat.residual_stream import Gain, reset_gain
from qat.structure import STRUCTURE_METHOD, build_structure, remember_structure, require_structure
from qat.wrap import WrapReport, convert_model, restore_model

QUANT_METHOD = "qdq"
OUR_METHODS = (QUANT_METHOD, STRUCTURE_METHOD)
"""What this package writes as ``quant_method``."""

FORMAT_VERSION = 1
_RANGES = "amax"
State = Literal["uncalibrated", "calibrated"]


@register_quantization_config(QUANT_METHOD)
class QDQConfig(QuantizationConfigMixin):
    """What ``config.json`` remembers of a quantized model under ``quantization_config``.

    Args:
        recipe: a shipped recipe's name, a TOML file, or the recipe's own values.
        target: the engine it is meant for; picks the weight granularity unless ``recipe`` is given by its values.
        state: ``calibrated`` once every quantizer has a range.
        task: the task it was calibrated for and how its data is read, so that later stages need not be told again.
    """

    def __init__(
        self,
        recipe: str | Mapping[str, Any] | Recipe = "tensorrt",
        target: str = "rtx",
        state: State = "uncalibrated",
        task: Mapping[str, Any] | None = None,
        **stored: Any,
    ) -> None:
        stored.pop("quant_method", None)
        version = stored.pop("version", FORMAT_VERSION)
        if version != FORMAT_VERSION:
            raise CheckpointError(
                f"quantization_config has version {version!r}, this qdq reads {FORMAT_VERSION}: "
                "install the qdq that wrote it"
            )
        if stored:
            key = sorted(stored)[0]
            known = ("recipe", "target", "state", "task", "version", "quant_method")
            raise CheckpointError(f"quantization_config has an unknown key '{key}': {suggest(key, known)}")
        if state not in ("uncalibrated", "calibrated"):
            raise CheckpointError(f"quantization_config has the state {state!r}: uncalibrated or calibrated expected")
        self.quant_method = QUANT_METHOD  # type: ignore[assignment]
        self.version = FORMAT_VERSION
        self.target = target
        self.state: State = state
        self.task: dict[str, Any] = dict(task or {})
        self.recipe = _read_recipe(recipe, target)

    def to_dict(self) -> dict[str, Any]:
        """The JSON values ``config.json`` holds."""
        return {
            "quant_method": QUANT_METHOD,
            "version": self.version,
            "recipe": self.recipe.model_dump(mode="json"),
            "target": self.target,
            "state": self.state,
            "task": self.task,
        }


def _read_recipe(recipe: str | Mapping[str, Any] | Recipe, target: str) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, Mapping):
        return Recipe.from_mapping(recipe, where="config.json")
    return Recipe.load(recipe).for_target(target)


@register_quantizer(QUANT_METHOD)
class QDQHfQuantizer(HfQuantizer):
    """Wraps a model before its weights are loaded, and sets afterwards what the file did not hold."""

    quantization_config: QDQConfig
    float_attention: str
    """The attention implementation that ``unwrap`` gives back."""

    given_weights: Mapping[str, Tensor] | None = None
    """The state dict that the running ``save_pretrained`` was called with."""

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **_: Any) -> PreTrainedModel:
        build_structure(model)
        self.float_attention = model.config._attn_implementation
        cast(Any, model).quantization_report = convert_model(model, self.quantization_config.recipe)
        keep_ranges_in_fp32(model)
        save_given_weights(model)
        absent = [r"\.gain$", *([r"\.amax$"] if self.quantization_config.state == "uncalibrated" else [])]
        model._keys_to_ignore_on_load_missing = [*(model._keys_to_ignore_on_load_missing or ()), *absent]
        return model

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **_: Any) -> PreTrainedModel:
        for _name, quantizer in named_quantizers(model):
            # transformers marks what it read from the file; the rest is uninitialised memory by now
            if not getattr(quantizer.amax, "_is_hf_initialized", False):
                quantizer.clear_range()
            quantizer.refresh_state()
        for module in model.modules():
            if isinstance(module, Gain) and not getattr(module.gain, "_is_hf_initialized", False):
                reset_gain(module, len(module.gain))
        pooling = read_pooling(model.config)
        if pooling is not None:
            set_pooling(model, pooling)
        return model

    def get_state_dict_and_metadata(self, model: PreTrainedModel) -> tuple[Mapping[str, Tensor] | None, dict[str, str]]:
        """What was given to be saved; transformers takes nothing else for a quantized model."""
        return self.given_weights, {}

    def is_serializable(self) -> bool:
        """True: ranges are ordinary buffers."""
        return True

    @property
    def is_trainable(self) -> bool:
        """True: fake quantization passes gradients."""
        return True

    @property
    def is_qat_trainable(self) -> bool:
        """True: what it is for."""
        return True

    @property
    def is_compileable(self) -> bool:
        """True: the operator has a shape function."""
        return True


def keep_ranges_in_fp32(model: PreTrainedModel) -> None:
    """Makes ``dtype=`` leave the ranges alone."""
    model._keep_in_fp32_modules_strict = {*(model._keep_in_fp32_modules_strict or ()), _RANGES}


def save_given_weights(model: PreTrainedModel) -> None:
    """Makes ``save_pretrained`` save the ``state_dict`` it is given, as it does for a float model.

    transformers (up to 5.23) drops it where a model is quantized. Under FSDP the other processes have gathered it and
    gone: nothing else holds whole weights.
    """
    saving: Any = model
    saving.save_pretrained = partial(_save_pretrained, model)


def _save_pretrained(
    model: PreTrainedModel,
    save_directory: str | Path,
    is_main_process: bool = True,  # noqa: FBT001, FBT002 - transformers' signature
    state_dict: Mapping[str, Tensor] | None = None,
    **named: Any,
) -> None:
    quantizer = cast(QDQHfQuantizer, cast(Any, model).hf_quantizer)
    quantizer.given_weights = state_dict
    try:
        type(model).save_pretrained(model, save_directory, is_main_process=is_main_process, **named)
    finally:
        quantizer.given_weights = None


def wrap(model: PreTrainedModel, recipe: str | Recipe = "tensorrt", *, target: str = "rtx") -> WrapReport:
    """What became of every layer of ``model``, which is quantized in place and still has no ranges.

    Args:
        model: a float model of a known family with any head.
        recipe: a shipped recipe's name, a TOML file, or a Recipe (whose granularity is then kept).
        target: the engine it is meant for; picks the weight granularity.

    Raises:
        CheckpointError: an unknown family, or a model that was loaded without its relative positions.
        RecipeError: no such recipe, or one that does not fit the model.
    """
    require_structure(model)
    config = QDQConfig(recipe=recipe, target=target)
    quantizer = QDQHfQuantizer(config, pre_quantized=False)
    quantizer.float_attention = model.config._attn_implementation
    report = convert_model(model, config.recipe)
    keep_ranges_in_fp32(model)
    save_given_weights(model)
    quantized: Any = model
    quantized.hf_quantizer = quantizer
    quantized.is_quantized = True
    quantized.quantization_method = QUANT_METHOD
    quantized.config.quantization_config = config
    quantized.quantization_report = report
    return report


def unwrap(model: PreTrainedModel) -> PreTrainedModel:
    """The float model again, in place: the weights as training left them, no quantizer, the attention it had.

    Raises:
        CheckpointError: the model is not quantized by qdq.
    """
    quantization_config(model)
    quantizer: Any = model.hf_quantizer
    restore_model(model, quantizer.float_attention)
    quantizer.remove_quantization_config(model)
    model._keep_in_fp32_modules_strict = {*(model._keep_in_fp32_modules_strict or ())} - {_RANGES}
    model.config._is_quantized = False
    del model.quantization_report, model.save_pretrained
    remember_structure(model)
    return model


def mark_calibrated(model: PreTrainedModel) -> None:
    """Records in the configuration that every quantizer has its range.

    Raises:
        CheckpointError: some have none; the first few are named.
    """
    missing = quantizers_without_range(model)
    if missing:
        raise CheckpointError(
            f"{len(missing)} quantizers have no range: {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}; "
            "give calibration batches that reach every layer"
        )
    quantization_config(model).state = "calibrated"


def quantization_config(model: PreTrainedModel) -> QDQConfig:
    """The model's entry.

    Raises:
        CheckpointError: the model is not quantized by qdq.
    """
    config = getattr(model.config, "quantization_config", None)
    if not isinstance(config, QDQConfig):
        raise CheckpointError("the model is not quantized: qdq.wrap it, or load a folder that qdq calibrate wrote")
    return config
