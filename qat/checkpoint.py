"""Checkpoints on disk: Hugging Face folders, float or quantized, read as data only and written whole."""

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from qat.artefacts import atomic_folder, write_manifest
from qat.batches import find_pad
from qat.checkpoints import find_format
from qat.checkpoints.base import list_names
from qat.checkpoints.completeness import is_range, require_complete
from qat.checkpoints.plausibility import DAMAGE, require_plausible, require_shards_beside
from qat.errors import CheckpointError
from qat.families import find_family
from qat.huggingface import OUR_METHODS, QDQConfig
from qat.quiet import quiet_transformers
from qat.structure import STRUCTURE_METHOD, StructureConfig, needs_structure
from qat.tasks import Task, list_tasks

_REASON = 300  # characters of what another library says
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
    """A loaded checkpoint: its folder, model (in evaluation mode, on the CPU) and tokenizer.

    ``left_over`` names the ranges another tool stored for what no recipe of ours quantizes.
    """

    folder: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    left_over: tuple[str, ...] = ()

    @property
    def quantization(self) -> QDQConfig | None:
        """The model's quantization entry, None for a float model."""
        config = getattr(self.model.config, "quantization_config", None)
        return config if isinstance(config, QDQConfig) else None

    @property
    def pad_token_id(self) -> int:
        """The tokenizer's, as ``find_pad`` reads it."""
        return find_pad(self.tokenizer)


def require_float(checkpoint: Checkpoint) -> None:
    """Passes for a float checkpoint.

    Raises:
        CheckpointError: it is quantized already.
    """
    if checkpoint.quantization is not None:
        raise CheckpointError(f"{checkpoint.folder} is quantized already: give the float checkpoint it was made from")


def read_config(folder: Path | str) -> PreTrainedConfig:
    """The configuration of a checkpoint of a supported family, in whatever format it is kept.

    Raises:
        CheckpointError: no checkpoint there, a broken or foreign configuration.
    """
    folder = Path(folder)
    kept = find_format(folder)
    values = kept.read_config(folder)
    model_type = values["model_type"]
    find_family(model_type)
    foreign = values.get("quantization_config")
    method = foreign.get("quant_method") if isinstance(foreign, dict) else foreign
    if foreign and method not in OUR_METHODS:
        raise CheckpointError(
            f"{folder} is quantized by '{method}', not by qdq: give the float checkpoint it was made from"
        )
    require_plausible(folder, values)
    config: PreTrainedConfig
    try:
        if kept.read_weights is None:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            if method == STRUCTURE_METHOD:
                del config.quantization_config  # a float model's, whose configuration says the same
        else:
            config = AutoConfig.for_model(**values)
            config.name_or_path = str(folder)
    except (*DAMAGE, StrictDataclassError) as error:
        reason = " ".join(str(error).split())[:_REASON]
        raise CheckpointError(f"the configuration of {folder} has a value that is none ({reason}): mend it") from error
    return config


def load_checkpoint(folder: Path | str, task: Task) -> Checkpoint:
    """The checkpoint in ``folder`` with ``task``'s head, in FP32, every weight and range read from the folder.

    Raises:
        CheckpointError: no checkpoint, an unknown family or one without that head, a broken file, weights or ranges
            that are missing.
    """
    folder = Path(folder)
    config = read_config(folder)
    head = require_head(config, task, folder=folder)
    loaded, _ = _load(folder, config, head, wanted=task.name, optional=task.optional_weights)
    task.adopt(loaded.model.config, folder)
    task.prepare(loaded.model)
    return loaded


def load_whole(folder: Path | str) -> Checkpoint:
    """The checkpoint in ``folder`` with the head it was saved with, in FP32, nothing of its weights left out.

    Raises:
        CheckpointError: as ``load_checkpoint``; a configuration that does not say which head that is; weights the head
            has no place for.
    """
    folder = Path(folder)
    config = read_config(folder)
    named = (getattr(config, "architectures", None) or [""])[0]
    head = getattr(transformers, named, None)
    if not (isinstance(head, type) and issubclass(head, PreTrainedModel)):
        raise CheckpointError(
            f"{folder} does not say which model it holds (architectures is {named!r}): add --task, for instance "
            "--task text-classification"
        )
    loaded, left_over = _load(folder, config, head, wanted=named)
    unexpected = [name for name in left_over if not is_range(name)]
    if unexpected:
        raise CheckpointError(
            f"{folder} holds {len(unexpected)} weights that {named} has no place for ({list_names(unexpected)}): say "
            "with --task which head is wanted"
        )
    return loaded


def _load(
    folder: Path,
    config: PreTrainedConfig,
    head: type[PreTrainedModel],
    *,
    wanted: str,
    optional: Sequence[str] = (),
) -> tuple[Checkpoint, list[str]]:
    """The checkpoint, and the weights it holds beside those of ``head``."""
    kept = find_format(folder)
    require_shards_beside(folder)
    try:
        source: dict[str, Any] = {"pretrained_model_name_or_path": folder}
        if kept.read_weights is not None:
            source = {"pretrained_model_name_or_path": None, "state_dict": dict(kept.read_weights(folder, config))}
        if getattr(config, "quantization_config", None) is None and needs_structure(config):
            source["quantization_config"] = StructureConfig()
        with quiet_transformers():
            loaded: Any = head.from_pretrained(**source, config=config, dtype=torch.float32, output_loading_info=True)
            model, info = loaded
            tokenizer = kept.load_tokenizer(folder, config)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_describe_pickle(folder, str(error))) from error
    except (*DAMAGE, SafetensorError) as error:
        raise _cannot_load(folder, wanted, error) from error
    model.config.name_or_path = str(folder)
    missing = [name for name in info["missing_keys"] if not any(part in name for part in optional)]
    require_complete(folder, wanted, {**info, "missing_keys": missing}, model)
    unexpected = sorted(info["unexpected_keys"])
    left_over = tuple(name for name in unexpected if is_range(name))
    return Checkpoint(folder=folder, model=model, tokenizer=tokenizer, left_over=left_over), unexpected


def _cannot_load(folder: Path, wanted: str, error: Exception) -> CheckpointError:
    reason = " ".join(str(error).split()) or "a file ends too early"
    return CheckpointError(f"{folder} cannot be loaded for {wanted}: {reason[:_REASON]}")


def _describe_pickle(folder: Path, said: str) -> str:
    if "unsupported GLOBAL" in said:
        return (
            f"{folder} holds a pickle with more in it than weights, which is not run: give a checkpoint saved as "
            "model.safetensors"
        )
    return (
        f"{folder} holds PyTorch weights that are damaged or something else under their name: download the file "
        "again, or give a checkpoint saved as model.safetensors"
    )


def _plain(name: str) -> str:
    r"""A name on one line of a card: neither markup nor HTML.

    >>> _plain("a`<b>\n---")
    'a&lt;b&gt; ---'
    """
    return escape(" ".join(name.replace("`", "").split()))


def require_head(config: PreTrainedConfig, task: Task, *, folder: Path) -> type[PreTrainedModel]:
    """The class of a checkpoint's family with the task's head.

    Raises:
        CheckpointError: it has none; names those it has.
    """
    found = task.find_class(type(config))
    if found is None:
        there = [each.name for each in list_tasks() if each.find_class(type(config)) is not None]
        raise CheckpointError(
            f"{folder} is a {config.model_type} and has no head for {task.name}: expected one of {', '.join(there)}"
        )
    return found


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
                recipe=_plain(config.recipe.name),
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
