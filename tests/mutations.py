"""Inputs next to good ones: bytes and trees of values with a few things changed, the same for the same seed.

A hypothesis example is a seed, and a seed a batch of inputs: a parser takes thousands a second, far more than it
makes examples. ``--hypothesis-profile soak`` multiplies the batches.
"""

import copy
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from hypothesis import settings

BATCH = 50
"""The inputs of one seed."""

TOKENS = (
    b"\x00", b"\xff", b"\x1b[2J", b"[[[[", b"{{", b'"', b"'''", b"\\ud800", b"9" * 400, b"1e999", b"-1", b"nan",
    b"null", b"../", b"=", b",", b"\n", b"\r", b"\t", b"\xe2\x80\xae", b"\xf0\x9f\x98\x80", b"Name: ", b"LayerType: ",
    b"Dimensions: [", b" }", b"\xdd\xff\xff\xff\xff", b"\xc9\xff\xff\xff\xff\x01", b"\x81\xa1a" * 40,
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1.5,
    2**63, -(2**63), 10**400, 1e308, float("inf"), float("nan"), "", "x", "../..", "\x1b[2J", "9" * 40,
    [], {}, [[]], [0], {"a": {}}, {"": None}, [None, 1, "x"],
)  # fmt: skip


def batches(quick: int, soak: int) -> settings:
    """How many batches a test takes: a few in the suite, many when it soaks."""
    return settings(max_examples=soak if settings.get_current_profile_name() == "soak" else quick)


def change_bytes(corpus: Sequence[bytes], seed: int) -> Iterator[bytes]:
    """A batch of inputs, each one of ``corpus`` with one to four changes."""
    chance = Random(seed)
    for _ in range(BATCH):
        data = bytearray(chance.choice(corpus))
        for _ in range(chance.randint(1, 4)):
            _change(data, corpus, chance)
        yield bytes(data)


def _change(data: bytearray, corpus: Sequence[bytes], chance: Random) -> None:
    start = chance.randrange(len(data) + 1)
    end = min(len(data), start + chance.choice((1, 1, 2, 8, 64)))
    match chance.randrange(6):
        case 0:
            data[start:end] = bytes(chance.randrange(256) for _ in range(end - start))
        case 1:
            del data[start:end]
        case 2:
            data[start:start] = chance.choice(TOKENS)
        case 3:
            data[start:end] = chance.choice(TOKENS)
        case 4:
            other = chance.choice(corpus)
            at = chance.randrange(len(other) + 1)
            data[start:end] = other[at : at + 64]
        case _:
            del data[start:]


def change_tree(corpus: Sequence[Any], seed: int) -> Iterator[Any]:
    """A batch of values, each one of ``corpus`` with one to three of its parts replaced, removed or renamed."""
    chance = Random(seed)
    for _ in range(BATCH):
        tree = [copy.deepcopy(chance.choice(corpus))]
        for _ in range(chance.randint(1, 3)):
            _change_part(tree, chance)
        yield tree[0]


def _change_part(tree: list[Any], chance: Random) -> None:
    parent: Any = tree
    key: Any = 0
    while isinstance(parent[key], dict | list) and parent[key] and chance.random() < 0.8:
        parent = parent[key]
        key = chance.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
    if parent is tree or chance.random() < 0.7:
        parent[key] = copy.deepcopy(chance.choice(VALUES))
    else:
        moved = parent.pop(key)
        if isinstance(parent, dict):
            parent[chance.choice(("", "x", f"{key}s"))] = moved
