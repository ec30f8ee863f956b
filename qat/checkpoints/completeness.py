"""Whether a model got every weight it has, and every weight there was."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from qat.checkpoints.base import list_names
from qat.errors import CheckpointError
from qat.huggingface import QDQConfig


def require_complete(folder: Path, wanted: str, info: Mapping[str, Any], model: PreTrainedModel) -> None:
    """Passes when no weight or range of ``model`` was left at its first values, and none of the encoder's given up.

    The other heads of a checkpoint may go, and with them the pooler they read.

    Args:
        folder: where it was read from.
        wanted: the task or class it was loaded for.
        info: what ``from_pretrained`` reported.
        model: what it gave.

    Raises:
        CheckpointError: what is missing, or has no place, by name.
    """
    config = getattr(model.config, "quantization_config", None)
    uncalibrated = isinstance(config, QDQConfig) and config.state == "uncalibrated"
    missing = sorted(key for key in info["missing_keys"] if not (uncalibrated and key.endswith(".amax")))
    ranges = [key for key in missing if key.endswith(".amax")]
    if ranges:
        raise CheckpointError(
            f"{folder} is marked calibrated and lacks ranges ({len(ranges)}, the first is '{ranges[0]}'): "
            "run qdq calibrate again"
        )
    if missing:
        raise CheckpointError(
            f"{folder} lacks weights that {type(model).__name__} needs ({len(missing)}, the first is '{missing[0]}'): "
            f"is it a checkpoint for {wanted}?"
        )
    if info["mismatched_keys"]:
        key = sorted(str(each) for each in info["mismatched_keys"])[0]
        raise CheckpointError(f"{folder}: {key} does not fit config.json; the two belong to different checkpoints")
    lost = [
        name
        for name in info["unexpected_keys"]
        if belongs_to_encoder(name, model.base_model_prefix) and not is_range(name)
    ]
    if lost:
        raise CheckpointError(
            f"{folder} holds {len(lost)} weights that its configuration gives no place to ({list_names(lost)}): "
            "the two belong to different checkpoints"
        )


def is_range(name: str) -> bool:
    """Whether a name is that of a range another tool stored: where nothing is quantized, it may be left over."""
    return name.endswith("._amax")


def belongs_to_encoder(name: str, prefix: str) -> bool:
    """Whether a weight is the encoder's own, and not a head's or the pooler's.

    >>> [belongs_to_encoder(name, "bert") for name in ("bert.encoder.layer.0.x", "bert.pooler.dense.bias", "cls.bias")]
    [True, False, False]
    """
    inside = name.removeprefix(f"{prefix}.")
    return inside != name and not inside.startswith("pooler")
