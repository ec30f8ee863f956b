"""What a checkpoint format tells the loader: how to know it, and where configuration, weights and tokenizer lie."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from qat.errors import CheckpointError

Weights = Mapping[str, Tensor]
"""Tensors by the names transformers' PyTorch models give them."""


def load_tokenizer(place: Path, config: PreTrainedConfig) -> PreTrainedTokenizerBase:
    """The tokenizer transformers finds beside the weights.

    Raises:
        CheckpointError: there is none, or a damaged one.
    """
    folder = place if place.is_dir() else place.parent
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, config=config, trust_remote_code=False
        )
    except Exception as error:  # tokenizers raises nothing narrower
        said = " ".join(str(error).split())
        raise CheckpointError(
            f"the tokenizer in {folder} cannot be read ({said[:200]}): save it there again with save_pretrained"
        ) from error
    return tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointFormat:
    """One way to keep a checkpoint.

    Attributes:
        name: what messages and manifests call it.
        files: what lies in its folder, for messages.
        recognize: whether a path, a folder or a file in it, holds one.
        read_config: the values of a ``config.json`` that transformers 5 understands, ``model_type`` among them; those
            of a foreign format say ``architectures``, the model class that holds all of its weights.
        read_weights: the weights of a model of that configuration; None where transformers reads the folder itself.
        load_tokenizer: its tokenizer.
    """

    name: str
    files: str
    recognize: Callable[[Path], bool]
    read_config: Callable[[Path], dict[str, Any]]
    read_weights: Callable[[Path, PreTrainedConfig], Weights] | None = None
    load_tokenizer: Callable[[Path, PreTrainedConfig], PreTrainedTokenizerBase] = load_tokenizer


def read_json_config(path: Path) -> dict[str, Any]:
    """The values of a configuration file.

    Raises:
        CheckpointError: it is not there, not JSON, or says no ``model_type``.
    """
    if not path.is_file():
        raise CheckpointError(
            f"{path.parent} is no checkpoint: it has no {path.name}; give a folder that save_pretrained or qdq wrote"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return {**values, "model_type": str(values["model_type"])}
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise CheckpointError(f"{path} is no model configuration ({error}): it needs JSON with a model_type") from error


def list_names(names: list[str], most: int = 5) -> str:
    """The first of some names, sorted, for a message that must not fill a screen.

    >>> list_names(["c", "a", "b"], most=2), list_names(["a"])
    ('a, b and 1 more', 'a')
    """
    shown = sorted(names)
    rest = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + rest
