"""Recipes, settings, rows, manifests and Flax files of any content are read, or refused by an error of ours."""

import json
import tomllib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgpack
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qat.artefacts import MANIFEST, read_manifest
from qat.checkpoint import read_config
from qat.checkpoints import flax
from qat.data import load_rows, parse_columns
from qat.errors import QDQError
from qat.finetune_settings import FinetuneSettings
from qat.recipe import Recipe, shipped_recipes, validate_settings
from qat.sentence_transformers import MODULES, read_sentence_transformers
from qat.settings import parse_overrides
from tests.mutations import batches, change_bytes, change_tree
from tests.tiny import tiny_bert

SEEDS = st.integers(0, 2**64)
RECIPES = [Recipe.load(name).to_toml().encode() for name in shipped_recipes()]
OVERRIDES = [b"finetune.max_steps=120", b"weights=per_channel", b"weights.bits=7", b"calibration.samples=[1, {a = 2}]"]
ROWS = {
    ".jsonl": [b'{"text": "ba", "label": 1}\n{"text": "\\u00e9", "label": null, "x": [1.5, {"a": true}]}\n'],
    ".csv": [b'text,label\n"b ""a""",1\nbe,2\n', b"\xef\xbb\xbftext\nba\n"],
    ".tsv": [b"text\tlabel\nba\t1\n"],
}
TREE = {"params": {"a": {"kernel": torch.ones(2, 3)}, "b": torch.zeros(0), "c": torch.ones(1, dtype=torch.bfloat16)}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def trees(folder: Path) -> list[bytes]:
    flax.write_tree(TREE, folder / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flax, "_LARGEST", 8)
        flax.write_tree(TREE, folder / "cut")
    return [(folder / name).read_bytes() for name in ("whole", "cut")]


def take(read: Callable[..., object], *given: object) -> None:
    with suppress(QDQError):
        read(*given)


@batches(8, 2000)
@given(SEEDS)
def test_recipes(folder: Path, seed: int) -> None:
    path = folder / "recipe.toml"
    for data in change_bytes(RECIPES, seed):
        path.write_bytes(data)
        take(Recipe.load, path)


@batches(4, 1000)
@given(SEEDS)
def test_recipes_of_wrong_values(seed: int) -> None:
    for values in change_tree([tomllib.loads(each.decode()) for each in RECIPES], seed):
        if isinstance(values, dict):
            take(lambda given: Recipe.from_mapping(given, where="a test"), values)


@batches(8, 2000)
@given(SEEDS)
def test_overrides(seed: int) -> None:
    for data in change_bytes(OVERRIDES, seed):
        text = data.decode(errors="surrogateescape")
        take(lambda given: validate_settings(FinetuneSettings, parse_overrides([given])["finetune"], where="")
             if given.startswith("finetune.") else parse_overrides([given]), text)  # fmt: skip
        take(parse_columns, text)


@pytest.mark.parametrize("suffix", sorted(ROWS))
@batches(3, 100)
@given(SEEDS)
def test_rows(folder: Path, suffix: str, seed: int) -> None:
    path = folder / f"rows{suffix}"
    for data in change_bytes(ROWS[suffix], seed):
        path.write_bytes(data)
        take(lambda given: load_rows(given, columns={"text": "text"}, limit=None), path)


@batches(8, 2000)
@given(SEEDS)
def test_flax_files(trees: list[bytes], folder: Path, seed: int) -> None:
    path = folder / flax.FILE
    for data in change_bytes(trees, seed):
        path.write_bytes(data)
        take(lambda given: list(flax.flatten_tree(flax.read_tree(given))), path)


@batches(4, 500)
@given(SEEDS)
def test_flax_files_of_wrong_values(folder: Path, seed: int) -> None:
    path = folder / flax.FILE
    array = [(2, 2), "float32", bytes(16)]
    for values in change_tree([array, [[0], "bool", b""], [[1], "int64", bytes(8)]], seed):
        with suppress(OverflowError):  # what msgpack itself does not write
            path.write_bytes(msgpack.packb({"a": msgpack.ExtType(1, msgpack.packb(values))}))
        take(lambda given: list(flax.flatten_tree(flax.read_tree(given))), path)


@batches(8, 2000)
@given(SEEDS)
def test_manifests(folder: Path, seed: int) -> None:
    path = folder / MANIFEST
    for data in change_bytes([b'{"stage": "export", "target": "rtx", "convolutions": [{"module": "a"}]}'], seed):
        path.write_bytes(data)
        assert isinstance(read_manifest(folder), dict)


@batches(4, 200)
@given(SEEDS)
def test_configurations(folder: Path, seed: int) -> None:
    values = json.loads(tiny_bert().config.to_json_string(use_diff=False))
    for changed in change_tree([values], seed):
        (folder / "config.json").write_text(json.dumps(changed), encoding="utf-8")
        take(read_config, folder)


@batches(3, 200)
@given(SEEDS)
def test_modules_of_sentence_transformers(folder: Path, seed: int) -> None:
    modules = [{"type": f"a.models.{name}", "path": ""} for name in ("Transformer", "Pooling")]
    pooling = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    for changed in change_tree([{"modules": modules, "pooling": pooling}], seed):
        (folder / MODULES).write_text(json.dumps(changed.get("modules") if isinstance(changed, dict) else changed))
        (folder / "config.json").write_text(json.dumps(changed.get("pooling") if isinstance(changed, dict) else 5))
        take(read_sentence_transformers, folder)
