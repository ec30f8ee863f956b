"""Folders of sentence-transformers, read as data: how their modules make a vector of a text's tokens."""

import json
from pathlib import Path
from typing import Any

from qat.errors import CheckpointError
from qat.pooling import Mode, Pooling

MODULES = "modules.json"
_SIZES = "sentence_bert_config.json"
_MODES: dict[str, Mode] = {"cls": "cls", "mean": "mean"}
_FLAGS = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}
_PREFIX = "pooling_mode_"


def read_sentence_transformers(folder: Path) -> Pooling | None:
    """What the modules of such a folder do; None for any other folder.

    Raises:
        CheckpointError: a damaged file, or modules that do something else.
    """
    listed = folder / MODULES
    if not listed.is_file():
        return None
    try:
        modules = [(str(module["type"]).rsplit(".", 1)[-1], str(module["path"])) for module in _read(listed)]
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{listed} is damaged ({error!r}): expected a list of modules with type and path"
        ) from error
    kinds = [kind for kind, _ in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise CheckpointError(
            f"{listed} lists {', '.join(kinds)}: Transformer, Pooling and possibly Normalize can be exported; a module "
            "left out would change every embedding"
        )
    if modules[0][1]:
        raise CheckpointError(
            f"{listed} has its model in the folder {modules[0][1]}: move the files of that folder up beside {MODULES}"
        )
    sizes = _read(folder / _SIZES) if (folder / _SIZES).is_file() else {}
    return Pooling(
        pooling=_find_mode(folder / modules[1][1] / "config.json"),
        normalize=kinds[-1] == "Normalize",
        longest=sizes.get("max_seq_length") if isinstance(sizes, dict) else None,
    )


def _find_mode(path: Path) -> Mode:
    values = _read(path)
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is damaged: expected an object with the pooling mode")
    named = values.get("pooling_mode")
    flags = [name for name, value in values.items() if name.startswith(_PREFIX) and value is True]
    said = [str(named)] if named is not None else [_FLAGS.get(name, name.removeprefix(_PREFIX)) for name in flags]
    if len(said) != 1 or said[0] not in _MODES:
        raise CheckpointError(f"{path} pools by {' and '.join(said) or 'nothing'}: cls or mean can be exported")
    return _MODES[said[0]]


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}): give a folder that sentence-transformers saved"
        ) from error
