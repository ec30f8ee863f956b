"""Inputs whose form is whole and whose values are wrong: JSON, msgpack and ONNX with a few parts changed."""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from random import Random
from typing import Any

import msgpack
import onnx
from google.protobuf import json_format  # type: ignore[import-untyped]  # ships no types
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types

from tests.mutations import BATCH, change_bytes, change_tree


def change_json(corpus: Sequence[bytes], seed: int) -> Iterator[bytes]:
    """JSON documents with a few parts replaced, removed or renamed; what is no JSON has bytes changed."""
    try:
        values = [json.loads(data) for data in corpus]
    except (ValueError, RecursionError):
        yield from change_bytes(corpus, seed)
    else:
        for value in change_tree(values, seed):
            yield json.dumps(value).encode()


def change_msgpack(corpus: Sequence[bytes], seed: int) -> Iterator[bytes]:
    """The same for msgpack, but for values that it does not hold."""
    try:
        values = [msgpack.unpackb(data, strict_map_key=False) for data in corpus]
    except (ValueError, TypeError, RecursionError):
        yield from change_bytes(corpus, seed)
    else:
        # numbers beyond 64 bits, halves of surrogate pairs
        yield from _write_batch(values, seed, msgpack.packb, (OverflowError, ValueError, TypeError))


def change_onnx(corpus: Sequence[bytes], seed: int) -> Iterator[bytes]:
    """The same for ONNX files, through protobuf's JSON, but for values that a field does not hold."""
    try:
        values: list[dict[str, Any]] = [
            json_format.MessageToDict(onnx.ModelProto.FromString(data), preserving_proto_field_name=True)
            for data in corpus
        ]
    except (DecodeError, ValueError):
        yield from change_bytes(corpus, seed)
    else:
        refused = (json_format.ParseError, OverflowError, ValueError, TypeError, AttributeError)
        yield from _write_batch(values, seed, _write_onnx, refused)


def _write_onnx(value: dict[str, Any]) -> bytes:
    written: bytes = json_format.ParseDict(value, onnx.ModelProto(), ignore_unknown_fields=True).SerializeToString()
    return written


def _write_batch(
    values: Sequence[Any], seed: int, write: Callable[[Any], bytes], refused: tuple[type[Exception], ...]
) -> Iterator[bytes]:
    """A whole batch of changed trees as files; for each that ``write`` refuses another is made."""
    chance, left = Random(seed), BATCH
    while left:
        for value in islice(change_tree(values, chance.getrandbits(64)), left):
            try:
                data = write(value)
            except refused:
                continue
            left -= 1
            yield data
