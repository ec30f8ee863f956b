"""Checkpoints on disk: Hugging Face folders, float or quantized, read as data only and written whole."""

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from qat.artefacts import atomic_folder, write_manifest
from qat.errors import CheckpointError, suggest
from qat.families import find_family
from qat.huggingface import QUANT_METHOD, QDQConfig
from qat.quiet import quiet_transformers
from qat.tasks import Task, list_tasks

_CARD = """---
library_name: transformers
tags: [qdq, int8]
---
This checkpoint is quantized by qdq (recipe `{recipe}`, target `{target}`, {state}). Load it with

```python
import qdq  # without this line transformers loads a float model and says nothing
from transformers import {auto_class}

model = {auto_class}.from_pretrained("this folder")
```
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A loaded checkpoint: its folder, model (in evaluation mode, on the CPU) and tokenizer."""

    folder: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def quantization(self) -> QDQConfig | None:
        """The model's quantization entry, None for a float model."""
        config = getattr(self.model.config, "quantization_config", None)
        return config if isinstance(config, QDQConfig) else None


def require_float(checkpoint: Checkpoint) -> None:
    """Passes for a float checkpoint.

    Raises:
        CheckpointError: it is quantized already.
    """
    if checkpoint.quantization is not None:
        raise CheckpointError(f"{checkpoint.folder} is quantized already: give the float checkpoint it was made from")


def read_config(folder: Path | str) -> PreTrainedConfig:
    """The configuration of a checkpoint folder of a supported family.

    Raises:
        CheckpointError: no folder, no checkpoint in it, a broken or foreign configuration.
    """
    folder = Path(folder)
    if not folder.is_dir():
        near = [path.parent.name for path in folder.parent.glob("*/config.json")]
        hint = f"; {suggest(folder.name, near)}" if near else ""
        raise CheckpointError(f"no checkpoint folder {folder}: give the folder of a Hugging Face checkpoint{hint}")
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is no checkpoint: it has no config.json; give a folder that save_pretrained or qdq wrote"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        model_type = values["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is no model configuration ({error}): it needs JSON with a model_type") from error
    find_family(str(model_type))
    foreign = values.get("quantization_config")
    method = foreign.get("quant_method") if isinstance(foreign, dict) else foreign
    if foreign and method != QUANT_METHOD:
        raise CheckpointError(
            f"{folder} is quantized by '{method}', not by qdq: give the float checkpoint it was made from"
        )
    config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    return config


def load_checkpoint(folder: Path | str, task: Task) -> Checkpoint:
    """The checkpoint in ``folder`` with ``task``'s head, every weight and range read from the folder.

    Raises:
        CheckpointError: no checkpoint, an unknown family or one without that head, a broken file, weights or ranges
            that are missing.
    """
    folder = Path(folder)
    require_head(read_config(folder), task, folder=folder)
    try:
        with quiet_transformers():
            model, info = task.auto_class.from_pretrained(folder, output_loading_info=True, trust_remote_code=False)
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{folder} holds a pickle with more in it than weights, which is not run: give a checkpoint saved as "
            "model.safetensors"
        ) from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{folder} cannot be loaded for {task.name}: {reason[:300]}") from error
    _require_complete(folder, task, info, model)
    task.adopt(model.config, folder)
    task.prepare(model)
    return Checkpoint(folder=folder, model=model, tokenizer=tokenizer)


def require_head(config: PreTrainedConfig, task: Task, *, folder: Path) -> None:
    """Passes where the family of a checkpoint has the task's head.

    Raises:
        CheckpointError: it has none; names those it has.
    """
    if task.find_class(type(config)) is None:
        there = [each.name for each in list_tasks() if each.find_class(type(config)) is not None]
        raise CheckpointError(
            f"{folder} is a {config.model_type} and has no head for {task.name}: expected one of {', '.join(there)}"
        )


def _require_complete(folder: Path, task: Task, info: Mapping[str, Any], model: PreTrainedModel) -> None:
    config = getattr(model.config, "quantization_config", None)
    uncalibrated = isinstance(config, QDQConfig) and config.state == "uncalibrated"
    missing = sorted(key for key in info["missing_keys"] if not (uncalibrated and key.endswith(".amax")))
    missing = [key for key in missing if not any(part in key for part in task.optional_weights)]
    ranges = [key for key in missing if key.endswith(".amax")]
    if ranges:
        raise CheckpointError(
            f"{folder} is marked calibrated and lacks ranges ({len(ranges)}, the first is '{ranges[0]}'): "
            "run qdq calibrate again"
        )
    if missing:
        raise CheckpointError(
            f"{folder} lacks weights that {type(model).__name__} needs ({len(missing)}, the first is '{missing[0]}'): "
            f"is it a checkpoint for {task.name}?"
        )
    if info["mismatched_keys"]:
        key = sorted(str(each) for each in info["mismatched_keys"])[0]
        raise CheckpointError(f"{folder}: {key} does not fit config.json; the two belong to different checkpoints")


def save_checkpoint(
    checkpoint: Checkpoint,
    out: Path | str,
    *,
    stage: str,
    inputs: Mapping[str, Path],
    facts: Mapping[str, object],
    files: Mapping[str, str] | None = None,
) -> Path:
    """The folder ``out`` with model, tokenizer, card, manifest and the further text ``files``, written whole.

    Raises:
        OutputError: ``out`` cannot be written.
    """
    out = Path(out)
    config = checkpoint.quantization
    with atomic_folder(out) as staging:
        with quiet_transformers():
            checkpoint.model.save_pretrained(staging)
            checkpoint.tokenizer.save_pretrained(staging)
        if config is not None:
            card = _CARD.format(
                recipe=config.recipe.name,
                target=config.target,
                state=config.state,
                auto_class=type(checkpoint.model).__name__,
            )
            (staging / "README.md").write_text(card, encoding="utf-8")
        for name, text in (files or {}).items():
            (staging / name).write_text(text, encoding="utf-8")
        write_manifest(staging, stage=stage, inputs=inputs, facts=facts)
    checkpoint.model.config.name_or_path = str(out)  # what a later manifest names as its source
    return out
