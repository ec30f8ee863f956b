"""Flax checkpoints of transformers 4, ``flax_model.msgpack``, whole or in shards, read and written without JAX.

A file is a tree of arrays in msgpack, as ``flax.serialization`` writes it: an array is an extension of type 1 (a scalar
of type 3) that holds shape, type and bytes; one above a gigabyte is cut into chunks. Kernels are transposed.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgpack
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from qat.checkpoints.base import CheckpointFormat, Weights, read_json_config
from qat.errors import CheckpointError

FILE = "flax_model.msgpack"
INDEX = f"{FILE}.index.json"
FAMILIES = ("albert", "bert")
"""The families of ours that transformers had in Flax."""

_ARRAY, _SCALAR = 1, 3
_CHUNKED = "__msgpack_chunked_array__"
_LARGEST = 1 << 30
_MOST_AXES = 8  # weights have four at most; torch is slow with thousands
_TYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint8": torch.uint8,
    "bool": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}
_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
Tree = dict[str, Any]


def read_tree(path: Path) -> Tree:
    """The tree of tensors in one file, that of its parameters where it holds other things beside them.

    Raises:
        CheckpointError: it ends too early, or is none.
    """
    try:
        tree = msgpack.unpackb(path.read_bytes(), ext_hook=_decode, raw=False)
    except (ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} is no Flax checkpoint, or ends too early ({error}): download it again, or give the folder it was "
            "saved in by save_pretrained"
        ) from error
    tree = tree.get("params", tree) if isinstance(tree, dict) else tree
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path} is no Flax checkpoint: it holds a {type(tree).__name__}, not a tree of arrays")
    return tree


def flatten_tree(tree: Tree, above: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor with its path, its parts joined by dots; chunks are put together.

    Raises:
        CheckpointError: something in the tree that is no array.

    >>> [name for name, _ in flatten_tree({"a": {"b": torch.ones(1)}, "c": torch.ones(1)})]
    ['a.b', 'c']
    """
    for name, value in tree.items():
        path = f"{above}{name}"
        if isinstance(value, dict) and _CHUNKED in value:
            yield path, _join(value)
        elif isinstance(value, dict):
            yield from flatten_tree(value, f"{path}.")
        elif isinstance(value, Tensor):
            yield path, value
        else:
            raise CheckpointError(f"'{path}' in a Flax checkpoint is a {type(value).__name__}, not an array")


def read_weights(folder: Path, config: PreTrainedConfig) -> Weights:
    """The weights under PyTorch's names, in the float types they are kept in.

    Raises:
        CheckpointError: a file that is missing, damaged or foreign; a family that never was in Flax.
    """
    _require_family(config.model_type)
    weights: dict[str, Tensor] = {}
    for path in _list_files(folder):
        tree = read_tree(path)
        for name, value in flatten_tree(tree):
            module, _, leaf = name.rpartition(".")
            kernel = leaf == "kernel"
            if kernel and value.ndim != 2:
                raise CheckpointError(f"{path}: '{name}' has {value.ndim} axes, a kernel has 2")
            weights[f"{module}.{_LEAVES.get(leaf, leaf)}"] = value.T.contiguous() if kernel else value
    for name in [name for name in weights if name.endswith("predictions.bias")]:
        weights[name.replace(".bias", ".decoder.bias")] = weights[name]  # which transformers keeps twice
    return weights


def flax_tree(model: PreTrainedModel) -> Tree:
    """The weights of a float model as Flax keeps them, tied ones once.

    Raises:
        CheckpointError: a family that never was in Flax, or a model that Flax cannot build.
    """
    _require_family(model.config.model_type)
    if getattr(model.config, "quantization_config", None) is not None:
        raise CheckpointError(
            "transformers' Flax models had no quantizers, relative positions or pruned heads: only a plain float model "
            "can be written for Flax"
        )
    tree: Tree = {}
    tied = model.config.tie_word_embeddings
    for name, value in model.state_dict().items():
        if name.endswith("predictions.decoder.bias") or (tied and name.endswith("predictions.decoder.weight")):
            continue
        *path, leaf = name.split(".")
        module = model.get_submodule(".".join(path))
        if leaf == "weight":
            leaf = {nn.Embedding: "embedding", nn.LayerNorm: "scale"}.get(type(module), "kernel")
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[leaf] = value.T.contiguous() if leaf == "kernel" else value
    return tree


def write_tree(tree: Tree, path: Path) -> None:
    """``path`` holding a tree of tensors, as ``flax.serialization`` writes it."""
    path.write_bytes(msgpack.packb(_cut(tree), default=_encode, use_bin_type=True, strict_types=True))


def save_flax(model: PreTrainedModel, folder: Path) -> None:
    """Writes configuration and weights into a folder, as transformers 4's Flax models were saved.

    Raises:
        CheckpointError: as ``flax_tree``.
    """
    tree = flax_tree(model)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    write_tree(tree, folder / FILE)


def _require_family(model_type: str) -> None:
    if model_type not in FAMILIES:
        raise CheckpointError(f"transformers never had Flax models of '{model_type}': known: {', '.join(FAMILIES)}")


def _list_files(folder: Path) -> list[Path]:
    if not (folder / INDEX).is_file():
        return [folder / FILE]
    try:
        named = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        files = [folder / Path(str(name)).name for name in sorted(set(named.values()))]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{folder / INDEX} is no index of shards ({error}): it needs a weight_map") from error
    gone = [path.name for path in files if not path.is_file()]
    if gone:
        raise CheckpointError(f"{folder} lacks shards that {INDEX} names ({len(gone)}, the first is {gone[0]})")
    return files


def _decode(kind: int, data: bytes) -> Tensor:
    if kind not in (_ARRAY, _SCALAR):
        raise ValueError(f"an extension of type {kind}")
    shape, dtype, values = msgpack.unpackb(data, raw=True)
    if not isinstance(dtype, bytes) or len(shape) > _MOST_AXES:
        raise ValueError(f"an array whose type is a {type(dtype).__name__}, with {len(shape)} axes")
    if not all(isinstance(size, int) for size in shape):
        raise ValueError("an array whose shape is not of whole numbers")
    name = dtype.decode()
    if name not in _TYPES:
        raise ValueError(f"an array of type {name}")
    expected = math.prod(shape) * _TYPES[name].itemsize
    if len(values) != expected:
        raise ValueError(f"an array of {expected} bytes in {len(values)}")
    if not values:
        return torch.empty(tuple(shape), dtype=_TYPES[name])
    return torch.frombuffer(bytearray(values), dtype=_TYPES[name]).reshape(tuple(shape))


def _encode(value: object) -> object:
    if not isinstance(value, Tensor):
        raise TypeError(f"{type(value).__name__} in a tree of tensors")
    values = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    packed = msgpack.packb((tuple(value.shape), _NAMES[value.dtype], values), use_bin_type=True)
    return msgpack.ExtType(_ARRAY, packed)


def _join(value: Mapping[str, Any]) -> Tensor:
    try:
        shape = tuple(value["shape"][str(i)] for i in range(len(value["shape"])))
        chunks = [value["chunks"][str(i)] for i in range(len(value["chunks"]))]
        return torch.cat([each.flatten() for each in chunks]).reshape(shape)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"an array in chunks of a Flax checkpoint is damaged ({error})") from error


def _cut(tree: Tree) -> Tree:
    """The tree with what is too large for msgpack in chunks."""
    cut: Tree = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            cut[name] = _cut(value)
        elif value.nbytes > _LARGEST:
            pieces = value.flatten().split(_LARGEST // value.element_size())
            parts = {"shape": tuple(value.shape), "chunks": pieces}
            cut[name] = {_CHUNKED: True} | {
                key: {str(i): each for i, each in enumerate(part)} for key, part in parts.items()
            }
        else:
            cut[name] = value
    return cut


FLAX = CheckpointFormat(
    name="flax",
    files=f"config.json and {FILE}, whole or in shards",
    recognize=lambda place: (place / FILE).is_file() or (place / INDEX).is_file(),
    read_config=lambda place: read_json_config(place / "config.json"),
    read_weights=read_weights,
)
