"""What a configuration asks for and transformers 5 no longer builds, put in place before weights are read.

Importing this module teaches ``from_pretrained`` the method ``qdq-structure``, which stands in the ``config.json`` of
float models that need it: with pruned heads, or with relative positions.
"""

from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from qat.errors import CheckpointError
from qat.families import find_family
from qat.pruned_heads import HeadPlan, Heads, prune_heads, read_pruned_heads
from qat.relative_positions import RelativePositions, has_relative_positions, install_relative_positions

STRUCTURE_METHOD = "qdq-structure"


def needs_structure(config: PreTrainedConfig) -> bool:
    """Whether transformers 5 would build another model than the configuration asks for.

    Raises:
        CheckpointError: it asks for something there is not.
    """
    return has_relative_positions(config) or bool(read_pruned_heads(config))


def build_structure(model: PreTrainedModel) -> None:
    """``model`` as its configuration asks, in place; its weights are still to be read.

    Raises:
        CheckpointError: the family cannot be built that way.
    """
    family = find_family(model.config.model_type)
    if has_relative_positions(model.config):
        install_relative_positions(model, dict(family.relative))
    heads = read_pruned_heads(model.config)
    if heads:
        model.config.pruned_heads = {}  # as it is until they are taken out
        prune_heads(model, head_layers(model), heads)


def prune(model: PreTrainedModel, heads: Heads) -> None:
    """Takes heads out of a float model, in place and in its configuration.

    Args:
        model: of a family whose heads can be taken out.
        heads: by layer, both numbered as in the whole model.

    Raises:
        CheckpointError: another family; a layer or head there is not; a layer that would lose all.
    """
    prune_heads(model, head_layers(model), heads)
    remember_structure(model)


def head_layers(model: PreTrainedModel) -> list[tuple[nn.Module, HeadPlan]]:
    """The encoder layers of a model in order, each with the places of its heads.

    Raises:
        CheckpointError: a family whose heads cannot be taken out.
    """
    family = find_family(model.config.model_type)
    if family.heads is None:
        raise CheckpointError(f"heads of the family '{family.model_type}' cannot be taken out")
    return [(layer, family.heads) for _, layer in family.layers(model)]


def require_structure(model: PreTrainedModel) -> None:
    """Passes for a model that is what its configuration asks for, as far as loading would not have failed.

    Raises:
        CheckpointError: transformers 5 loaded it without its relative positions.
    """
    built = any(isinstance(module, RelativePositions) for module in model.modules())
    if has_relative_positions(model.config) and not built:
        raise CheckpointError(
            f"the model was loaded without its relative positions (position_embedding_type is "
            f"{model.config.position_embedding_type!r}) and computes something else: run qdq convert on its folder, "
            "then load what it wrote after import qdq"
        )


@register_quantization_config(STRUCTURE_METHOD)
class StructureConfig(QuantizationConfigMixin):
    """The entry itself: nothing but its name, for the rest of the configuration says what to build."""

    def __init__(self, **_: Any) -> None:
        self.quant_method = STRUCTURE_METHOD  # type: ignore[assignment]

    def to_dict(self) -> dict[str, Any]:
        """The JSON values ``config.json`` holds."""
        return {"quant_method": STRUCTURE_METHOD}


@register_quantizer(STRUCTURE_METHOD)
class StructureHfQuantizer(HfQuantizer):
    """Builds the structure before weights are read, and then leaves a float model that knows of no quantizer."""

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **_: Any) -> PreTrainedModel:
        build_structure(model)
        return model

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **_: Any) -> PreTrainedModel:
        self.remove_quantization_config(model)  # type: ignore[no-untyped-call]
        model.config._is_quantized = False
        remember_structure(model)
        return model

    def is_serializable(self) -> bool:
        """True: the weights are a float model's."""
        return True

    @property
    def is_trainable(self) -> bool:
        """True, likewise."""
        return True


def remember_structure(model: PreTrainedModel) -> None:
    """Gives a float model the entry that makes ``from_pretrained`` build it again, where it needs one."""
    if needs_structure(model.config):
        model.config.quantization_config = StructureConfig()
