"""TensorFlow 1 checkpoints, ``.index`` beside ``.data``: Google's BERT and ALBERT, hub modules, ConvBERT.

TensorFlow itself reads them (the extra ``tf``): the configuration lies beside them as JSON without a ``model_type``,
the family and the head follow from the variables.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModel, BertTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from qat.checkpoints.base import CheckpointFormat, Weights, list_names, load_tokenizer
from qat.checkpoints.tf1_names import Layout, Place, find_family_of, find_head, is_weight, place_of
from qat.errors import CheckpointError

_PLACES = ("*.index", "variables/*.index")
_VOCABULARIES = ("vocab.txt", "assets/vocab.txt")
_ORDERS: dict[Layout, tuple[int, ...]] = {"transposed": (1, 0), "depthwise": (1, 2, 0), "pointwise": (2, 1, 0)}


def find_prefix(place: Path) -> Path:
    """The path that TensorFlow calls the checkpoint: its files' without their endings.

    Raises:
        CheckpointError: a folder with several, or one without its data.
    """
    found = [place] if place.is_file() else _list_indexes(place)
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise CheckpointError(f"{place} holds {len(found)} TensorFlow checkpoints: give one of its files {names}")
    prefix = found[0].with_suffix("")
    if not list(prefix.parent.glob(f"{prefix.name}.data-*")):
        raise CheckpointError(f"{found[0]} has no data beside it: {prefix.name}.data-00000-of-00001 is missing")
    return prefix


def read_variables(place: Path) -> dict[str, NDArray[Any]]:
    """Every variable of the model by its TensorFlow name; what belongs to training alone is left out.

    Raises:
        CheckpointError: no TensorFlow, or files that are damaged or something else.
    """
    prefix = find_prefix(place)
    try:
        import tensorflow as tf
    except ImportError as error:
        raise CheckpointError(
            f"{prefix}.index is a TensorFlow checkpoint, which TensorFlow reads: run pip install 'qdq[tf]'"
        ) from error
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        names = [name for name in reader.get_variable_to_shape_map() if is_weight(name)]
        return {name: reader.get_tensor(name) for name in sorted(names)}
    except (tf.errors.OpError, RuntimeError, ValueError, IndexError) as error:
        said = " ".join(str(error).split())
        raise CheckpointError(
            f"{prefix}.index is no TensorFlow checkpoint, or it or its data is damaged ({said[:200]}): download it "
            "again"
        ) from error


def read_config(place: Path) -> dict[str, Any]:
    """The configuration beside the variables, with the family and the head that the variables are of.

    Raises:
        CheckpointError: no configuration, or one of another family.
    """
    variables = read_variables(place)
    names = list(variables)
    family = find_family_of(names)
    path = _find_config(place)
    try:
        values = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is no model configuration ({error}): it needs JSON") from error
    said = values.get("model_type", family)
    if said != family:
        raise CheckpointError(f"{path} says model_type '{said}', but the variables are those of '{family}'")
    values |= {"model_type": family, "architectures": [find_head(family, names)]}
    if "output_weights" in variables and "id2label" not in values:
        values["num_labels"] = len(variables["output_weights"])
    return values


def read_weights(place: Path, config: PreTrainedConfig) -> Weights:
    """The variables as parameters of the model the configuration describes, each in its place.

    Raises:
        CheckpointError: a variable without a place in the encoder or a head, a parameter of the encoder without a
            variable, or one of another shape.
    """
    family = config.model_type
    weights: dict[str, Tensor] = {}
    found: dict[str, str] = {}
    for name, array in read_variables(place).items():
        target = place_of(family, name)
        weights[target.name] = torch.from_numpy(np.ascontiguousarray(_arrange(name, array, target)))
        found[target.name] = name
    _require_places(place, config, weights, found)
    for name in [name for name in weights if name.endswith("predictions.bias")]:
        weights[name.replace(".bias", ".decoder.bias")] = weights[name]  # which transformers keeps twice
    return weights


def load_own_tokenizer(place: Path, config: PreTrainedConfig) -> PreTrainedTokenizerBase:
    """Transformers' tokenizer beside the variables, or Google's ``vocab.txt``; cased where the vocabulary is.

    Raises:
        CheckpointError: there is none.
    """
    folder = place if place.is_dir() else place.parent
    if any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "spiece.model")):
        return load_tokenizer(place, config)
    for name in _VOCABULARIES:
        if (folder / name).is_file():
            words = (folder / name).read_text(encoding="utf-8").splitlines()
            lower = not any(word != word.lower() for word in words if not word.startswith("["))
            vocabulary = {word: number for number, word in enumerate(words)}
            longest = config.max_position_embeddings
            made: Any = BertTokenizer(vocab=vocabulary, do_lower_case=lower, model_max_length=longest)
            tokenizer: PreTrainedTokenizerBase = made
            return tokenizer
    raise CheckpointError(
        f"{folder} has no tokenizer: put its vocab.txt, or transformers' tokenizer.json and tokenizer_config.json, "
        "beside the variables"
    )


def _list_indexes(folder: Path) -> list[Path]:
    return sorted(path for pattern in _PLACES for path in folder.glob(pattern))


def _recognize(place: Path) -> bool:
    return place.suffix == ".index" if place.is_file() else bool(_list_indexes(place))


def _find_config(place: Path) -> Path:
    folder = place if place.is_dir() else place.parent
    named = (path for pattern in ("*_config.json", "assets/*_config.json") for path in sorted(folder.glob(pattern)))
    found = [folder / "config.json", *named]
    usable = [path for path in found if path.is_file() and path.name != "tokenizer_config.json"]
    if not usable:
        raise CheckpointError(f"{folder} has no configuration: put bert_config.json or config.json beside it")
    return usable[0]


def _arrange(name: str, array: NDArray[Any], target: Place) -> NDArray[Any]:
    if target.layout == "column":
        return array[:, None]
    order = _ORDERS.get(target.layout)
    if order is None:
        return array
    if array.ndim != len(order):
        raise CheckpointError(f"variable '{name}' has {array.ndim} axes, {len(order)} are expected")
    return array.transpose(order)


def _require_places(
    place: Path, config: PreTrainedConfig, weights: Mapping[str, Tensor], names: Mapping[str, str]
) -> None:
    """Passes where the encoder's parameters and the variables of the encoder are the same ones."""
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    prefix = f"{model.base_model_prefix}."
    wanted = {f"{prefix}{name}": value.shape for name, value in model.state_dict().items()}
    heads = ("cls.", "classifier.", "qa_outputs.", "predictions.", "sop_classifier.")
    homeless = [names[key] for key in weights if key not in wanted and not key.startswith(heads)]
    missing = [key for key in wanted if key not in weights and "pooler" not in key]
    if homeless or missing:
        both = [
            *([f"{len(homeless)} variables have no place in the model ({list_names(homeless)})"] if homeless else []),
            *([f"{len(missing)} parameters have no variable ({list_names(missing)})"] if missing else []),
        ]
        raise CheckpointError(f"{place}: {', and '.join(both)}: do the variables belong to this configuration?")
    wrong = [key for key in wanted if key in weights and weights[key].shape != wanted[key]]
    if wrong:
        shapes = f"{tuple(weights[wrong[0]].shape)} given, {tuple(wanted[wrong[0]])} expected"
        raise CheckpointError(
            f"{place}: {len(wrong)} variables have another shape than their parameters, the first is "
            f"'{names[wrong[0]]}' ({shapes}): the configuration belongs to another checkpoint"
        )


TF1 = CheckpointFormat(
    name="tensorflow",
    files="bert_config.json and the .index and .data of TensorFlow 1",
    recognize=_recognize,
    read_config=read_config,
    read_weights=read_weights,
    load_tokenizer=load_own_tokenizer,
)
