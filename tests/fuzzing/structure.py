"""Inputs whose form is whole and whose values are wrong: JSON, msgpack and ONNX with a few parts changed."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import msgpack
import onnx
from google.protobuf import json_format  # type: ignore[import-untyped]  # ships no types
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types

from tests.mutations import change_bytes, change_tree


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
    """The same for msgpack; values that it does not hold are left out."""
    try:
        values = [msgpack.unpackb(data, strict_map_key=False) for data in corpus]
    except (ValueError, TypeError, RecursionError):
        yield from change_bytes(corpus, seed)
        return
    for value in change_tree(values, seed):
        try:
            yield msgpack.packb(value)
        except (OverflowError, ValueError, TypeError):  # numbers beyond 64 bits, halves of surrogate pairs
            continue


def change_onnx(corpus: Sequence[bytes], seed: int) -> Iterator[bytes]:
    """The same for ONNX files, through protobuf's JSON; values that a field does not hold are left out."""
    try:
        values: list[dict[str, Any]] = [
            json_format.MessageToDict(onnx.ModelProto.FromString(data), preserving_proto_field_name=True)
            for data in corpus
        ]
    except (DecodeError, ValueError):
        yield from change_bytes(corpus, seed)
        return
    for value in change_tree(values, seed):
        try:
            yield json_format.ParseDict(value, onnx.ModelProto(), ignore_unknown_fields=True).SerializeToString()
        except (json_format.ParseError, ValueError, TypeError, AttributeError):
            continue
