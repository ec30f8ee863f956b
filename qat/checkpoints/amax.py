"""Checkpoints that pytorch-quantization or NVIDIA ModelOpt calibrated: ranges lie beside the weights as ``_amax``.

QDQBERT folders of transformers 4 (``model_type: qdqbert``), and float folders whose layers gained quantizers. They
become calibrated checkpoints of ours whose ranges are the ones stored, in FP32, the weights' included. What a recipe of
ours cannot quantize (pooler, task head, LayerNorm) stays float, and its ranges are left over.
"""

import copy
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from qat.checkpoints.base import CheckpointFormat, Weights, list_names, read_json_config
from qat.checkpoints.huggingface import HUGGINGFACE
from qat.errors import CheckpointError
from qat.families import find_family
from qat.huggingface import QDQConfig
from qat.quantizer import named_quantizers
from qat.recipe import Recipe, Role, Rule, WeightGranularity
from qat.structure import build_structure
from qat.wrap import convert_model

QDQBERT = "qdqbert"
_END = "_quantizer._amax"
_SMOOTHED = "_pre_quant_scale"
_MATMULS = {"q": "query", "k": "key", "v": "value", "a": "probs"}
_ROLES: Mapping[str, Role] = {
    "input_quantizer": "input",
    "weight_quantizer": "weight",
    "residual_quantizer": "residual",
    "output_quantizer": "add_local",
    **dict.fromkeys([f"{part}_quantizer" for part in _MATMULS.values()], "attention"),
}
_HEAD_BYTES = 1 << 22
_TARGETS: Mapping[WeightGranularity, str] = {"per_tensor": "rtx", "per_channel": "tensorrt"}


def range_name(name: str) -> str:
    """What we call a stored range.

    >>> range_name("bert.encoder.layer.0.attention.self.matmul_a_input_quantizer._amax")
    'bert.encoder.layer.0.attention.self.probs_quantizer.amax'
    >>> range_name("bert.encoder.layer.0.output.add_local_input_quantizer._amax")
    'bert.encoder.layer.0.output.dense.output_quantizer.amax'
    """
    name = name.replace("._input_quantizer.", ".input_quantizer.").replace("._weight_quantizer.", ".weight_quantizer.")
    name = name.replace(".add_residual_input_quantizer.", ".residual_quantizer.")
    name = name.replace(".add_local_input_quantizer.", ".dense.output_quantizer.")
    name = re.sub(r"\.matmul_([qkva])_input_quantizer\.", lambda m: f".{_MATMULS[m[1]]}_quantizer.", name)
    return name.removesuffix("._amax") + ".amax"


def _recognize(place: Path) -> bool:
    if not HUGGINGFACE.recognize(place):
        return False
    config = place / "config.json"
    if config.is_file() and re.search(rb'"model_type":\s*"qdqbert"', config.read_bytes()):
        return True
    return any(_mentions_ranges(path) for path in _weight_files(place))


def _weight_files(folder: Path) -> list[Path]:
    """The files of weights, one kind: safetensors where there are some."""
    return sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def _mentions_ranges(path: Path) -> bool:
    """Whether stored ranges are among the names in a file; nothing is unpickled, and a damaged file has none."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as stored:
                return any(name.endswith(_END) for name in stored.keys())  # noqa: SIM118 - it is no mapping
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name.endswith("data.pkl")]
                return any(_END.encode() in archive.read(name) for name in names)
        with path.open("rb") as stream:
            return _END.encode() in stream.read(_HEAD_BYTES)
    except (OSError, SafetensorError, zipfile.BadZipFile):
        return False


def _read_files(folder: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for path in _weight_files(folder):
        try:
            read = load_file if path.suffix == ".safetensors" else _load_pickle
            weights |= read(path)
        except (OSError, RuntimeError, EOFError, SafetensorError, pickle.UnpicklingError) as error:
            said = " ".join(str(error).split())
            raise CheckpointError(f"{path} is damaged or something else ({said[:200]}): download it again") from error
    return weights


def _load_pickle(path: Path) -> dict[str, Tensor]:
    loaded: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return loaded


def _float_config(folder: Path) -> dict[str, Any]:
    """The configuration of the model without its quantizers."""
    values = read_json_config(folder / "config.json")
    values.pop("quantization_config", None)
    if values["model_type"] == QDQBERT:
        values["model_type"] = "bert"
        values["architectures"] = [name.removeprefix("QDQ") for name in values.get("architectures") or ["BertModel"]]
    return values


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a calibrated checkpoint of ours, with a recipe that asks for what has a range.

    Raises:
        CheckpointError: an unknown family, no ranges, ranges that cannot be kept.
    """
    values = _float_config(folder)
    weights = _read_files(folder)
    ranges = {range_name(name): value for name, value in weights.items() if name.endswith(_END)}
    if not ranges:
        raise CheckpointError(
            f"{folder} says model_type '{QDQBERT}' and holds no ranges (no weight is named ..{_END}): calibrate it "
            "first, or write model_type 'bert' into its config.json to load it as a float model"
        )
    smoothed = [name for name in weights if name.endswith(_SMOOTHED)]
    if smoothed:
        raise CheckpointError(
            f"{folder} was smoothed ({len(smoothed)} scales of inputs, the first is '{smoothed[0]}'), which no recipe "
            "keeps: calibrate the float checkpoint it was made from with qdq calibrate"
        )
    recipe = _find_recipe(folder, values, ranges)
    entry = QDQConfig(recipe=recipe, target=_TARGETS[recipe.weights], state="calibrated").to_dict()
    return {**values, "quantization_config": entry}


def _find_recipe(folder: Path, values: Mapping[str, Any], ranges: Mapping[str, Tensor]) -> Recipe:
    """``qdqbert`` where sums or attention have ranges, else ``linear``; what has none, is left out by its own rule."""
    find_family(str(values["model_type"]))
    per_channel = any(value.numel() > 1 for name, value in ranges.items() if ".weight_quantizer." in name)
    whole = any(name.endswith((".residual_quantizer.amax", ".probs_quantizer.amax")) for name in ranges)
    recipe = Recipe.load("qdqbert" if whole else "linear").model_copy(
        update={
            "weights": "per_channel" if per_channel else "per_tensor",
            "scale_type": "float32",
            "weight_ranges": "stored",
            "sharing": "reader",
        }
    )
    asked = _quantizers(AutoConfig.for_model(**values), recipe)
    there = {_below_base(name, asked.prefix) for name in ranges}
    lacking = [slot for slot in asked.ranges if f"{slot}.amax" not in there]
    _require_pairs(folder, lacking, [slot for slot in asked.ranges if slot not in lacking])
    roles: dict[str, set[Role]] = {}
    for slot in lacking:
        owner, _, kind = slot.rpartition(".")
        roles.setdefault(owner, set()).add(_ROLES[kind])
    rules = [Rule(layers=owner, roles=tuple(sorted(each)), quantize=False) for owner, each in sorted(roles.items())]
    return recipe.model_copy(update={"rules": (*recipe.rules, *rules)})


def _require_pairs(folder: Path, lacking: Sequence[str], there: Sequence[str]) -> None:
    """Passes where no layer has a range for its input or its weight alone, and no attention for some of its four."""
    units = ({"input_quantizer", "weight_quantizer"}, {f"{part}_quantizer" for part in _MATMULS.values()})
    present = {tuple(slot.rsplit(".", 1)) for slot in there}
    half = [
        slot
        for slot in lacking
        for unit in units
        if slot.rpartition(".")[2] in unit and any((slot.rpartition(".")[0], other) in present for other in unit)
    ]
    if half:
        raise CheckpointError(
            f"{folder} lacks {len(half)} ranges that belong to stored ones ({list_names(half)}): a layer needs those "
            "of its input and its weight, an attention those of its query, key, value and probabilities"
        )


@dataclass(frozen=True)
class _Quantizers:
    """What a recipe quantizes in a base model: how many ranges each quantizer has, and the base model's own name."""

    prefix: str
    ranges: Mapping[str, int]


def _quantizers(config: PreTrainedConfig, recipe: Recipe) -> _Quantizers:
    config = copy.deepcopy(config)
    config.quantization_config = None
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    build_structure(model)
    convert_model(model, recipe)
    return _Quantizers(model.base_model_prefix, {name: len(each.amax) for name, each in named_quantizers(model)})


def _below_base(name: str, prefix: str) -> str:
    return name.removeprefix(f"{prefix}.")


def read_weights(folder: Path, config: PreTrainedConfig) -> Weights:
    """Weights and ranges of the calibrated model; ranges it has no quantizer for keep their names.

    A range of a shared layer, one for all its depths, becomes that of each depth.

    Raises:
        CheckpointError: ranges that are none, or of another shape.
    """
    entry = dict(config.quantization_config)
    expected = _quantizers(config, Recipe.from_mapping(entry["recipe"], where="config.json"))
    weights: dict[str, Tensor] = {}
    for name, value in _read_files(folder).items():
        ours = range_name(name) if name.endswith(_END) else name
        size = expected.ranges.get(_below_base(ours, expected.prefix).removesuffix(".amax"))
        if not name.endswith(_END) or size is None:
            weights[name] = value
            continue
        values = value.detach().float().flatten()
        if values.numel() not in (1, size) or not bool(torch.isfinite(values).all()) or bool((values < 0).any()):
            raise CheckpointError(
                f"{folder}: '{name}' of shape {tuple(value.shape)} is no range of {size} values, finite and "
                "not negative"
            )
        weights[ours] = values.expand(size).clone()
    return weights


AMAX = CheckpointFormat(
    name="pytorch-quantization",
    files="config.json of qdqbert, or weights with ranges of pytorch-quantization or ModelOpt (_amax)",
    recognize=_recognize,
    read_config=read_config,
    read_weights=read_weights,
)
