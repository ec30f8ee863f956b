"""The requests a server runs before it answers, as Triton reads them: raw tensors in the folder ``warmup``.

Triton's own random data is random bytes, which no embedding table has a row for.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.deploy.interface import Interface
from export.deploy.model_config import load_messages

WARMUP_FOLDER = "warmup"
_IDS, _MASK = "input_ids", "attention_mask"
Arrays = dict[str, NDArray[np.int64]]


def sample_row(interface: Interface, tokens: int, vocabulary: int, *, batch: int = 1) -> Arrays:
    """Inputs of so many random tokens, none of them padding; the same every time.

    Raises:
        ExportError: an axis that is neither rows nor tokens.
    """
    chance = np.random.default_rng(0)
    arrays = {}
    for tensor in interface.inputs:
        shape = interface.input_shape(tensor, batch, tokens)
        if tensor.name == _IDS:
            arrays[tensor.name] = chance.integers(0, vocabulary, size=shape, dtype=np.int64)
        else:
            arrays[tensor.name] = np.full(shape, int(tensor.name == _MASK), dtype=np.int64)
    return arrays


def add_warmup(
    config: Any, interface: Interface, shapes: Sequence[tuple[int, int]], vocabulary: int
) -> dict[str, bytes]:
    """The warm-up requests added to a configuration, and the files they read, by name in the folder ``warmup``."""
    batched, files = config.max_batch_size > 0, {}
    for rows, tokens in shapes:
        sample = config.model_warmup.add(name=f"{rows}x{tokens}", batch_size=rows if batched else 1, count=1)
        for name, array in sample_row(interface, tokens, vocabulary, batch=1 if batched else rows).items():
            file = f"{name}_{tokens}"
            entry = sample.inputs[name]
            entry.data_type = load_messages().TYPE_INT64
            entry.dims.extend(array.shape[1 if batched else 0 :])
            entry.input_data_file = file
            files[file] = array.astype("<i8").tobytes()
    return files


def explain_samples(config: Any, folder: Path) -> Iterator[str]:
    """What is wrong with the warm-up requests of a configuration, whose model lies in ``folder``."""
    inputs = {each.name: each for each in config.input}
    for sample in config.model_warmup:
        place = f"{folder.name}: warm-up '{sample.name}'"
        if sample.batch_size > max(config.max_batch_size, 1):
            yield (
                f"{place} has {sample.batch_size} rows, but max_batch_size is {config.max_batch_size}: give it fewer, "
                "or deploy again"
            )
        if set(sample.inputs) != set(inputs):
            yield (
                f"{place} feeds {', '.join(sorted(sample.inputs)) or 'nothing'}, but the model takes "
                f"{', '.join(sorted(inputs))}: deploy again"
            )
            continue
        for name, entry in sample.inputs.items():
            yield from _explain_entry(place, folder, entry, inputs[name])


def read_samples(config: Any, folder: Path) -> Iterator[tuple[str, Arrays]]:
    """Every warm-up request by its name, as the batch that the server makes of it."""
    for sample in config.model_warmup:
        arrays = {}
        for name, entry in sample.inputs.items():
            dims = tuple(entry.dims)
            raw = (folder / WARMUP_FOLDER / entry.input_data_file).read_bytes()[: 8 * math.prod(dims)]
            row = np.frombuffer(raw, dtype="<i8").reshape(dims)
            arrays[name] = np.stack([row] * sample.batch_size) if config.max_batch_size else row
        yield sample.name, arrays


def _explain_entry(place: str, folder: Path, entry: Any, declared: Any) -> Iterator[str]:
    given, expected = list(entry.dims), list(declared.dims)
    fits = len(given) == len(expected) and all(want in (-1, have) for have, want in zip(given, expected, strict=True))
    if not fits or min(given, default=0) < 1:
        yield f"{place} feeds {declared.name} of shape {given}, but it is declared as {expected}: deploy again"
        return
    if entry.data_type != declared.data_type:
        types = load_messages().DataType
        yield (
            f"{place} feeds {declared.name} as {types.Name(entry.data_type)}, but it is declared as "
            f"{types.Name(declared.data_type)}: deploy again"
        )
        return
    path = folder / WARMUP_FOLDER / entry.input_data_file
    if not entry.input_data_file or not path.is_file():
        yield f"{place} reads {path}, which is missing: deploy again"
        return
    needed, size = 8 * math.prod(given), path.stat().st_size
    if size < needed:
        yield f"{place} reads {path}, which has {size} bytes of {needed}: deploy again"
