"""What of ``qat`` reads files and options: recipes, settings, rows, Flax files, configurations."""

import json
import tomllib
from functools import cache
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import msgpack
import pyarrow
import pyarrow.parquet
import pytest
import torch

from qat.checkpoint import read_config
from qat.checkpoints import flax
from qat.data import load_rows, parse_columns
from qat.finetune_settings import FinetuneSettings
from qat.recipe import Recipe, shipped_recipes, validate_settings
from qat.sentence_transformers import MODULES, read_sentence_transformers
from qat.settings import parse_overrides
from tests.fuzzing.structure import change_json, change_msgpack
from tests.fuzzing.target import SOME, FuzzTarget, in_parts, survive
from tests.tiny import tiny_bert

OVERRIDES = (b"finetune.max_steps=120", b"weights=per_channel", b"weights.bits=7", b"calibration.samples=[1, {a = 2}]")
ROWS = {
    "jsonl": (b'{"text": "ba", "label": 1}\n{"text": "\\u00e9", "label": null, "x": [1.5, {"a": true}]}\n',),
    "csv": (b'text,label\n"b ""a""",1\nbe,2\n', b"\xef\xbb\xbftext\nba\n"),
    "tsv": (b"text\tlabel\nba\t1\n",),
}
ARRAYS = ([(2, 2), "float32", bytes(16)], [[0], "bool", b""], [[1], "int64", bytes(8)])


@cache
def _recipes() -> tuple[bytes, ...]:
    return tuple(Recipe.load(name).to_toml().encode() for name in shipped_recipes())


def _take_recipe(data: bytes, folder: Path) -> None:
    path = folder / "recipe.toml"
    path.write_bytes(data)
    survive(Recipe.load, path)


def _take_recipe_values(data: bytes, folder: Path) -> None:
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(values, dict):
        survive(lambda: Recipe.from_mapping(values, where="a test"))


def _take_option(data: bytes, folder: Path) -> None:
    text = data.decode(errors="surrogateescape")
    survive(parse_columns, text)
    overrides = survive(parse_overrides, [text])
    if isinstance(overrides, dict) and "finetune" in overrides:
        survive(lambda: validate_settings(FinetuneSettings, overrides["finetune"], where=""))


@cache
def _parquet() -> tuple[bytes, ...]:
    table = pyarrow.table({"text": ["ba", "\u00e9", None], "label": [1, 2, 3], "x": [[1.5], [], [2.0, 3.0]]})
    written = []
    for options in ({}, {"use_dictionary": False, "compression": "none"}, {"compression": "gzip", "version": "1.0"}):
        stream = BytesIO()
        pyarrow.parquet.write_table(table, stream, **options)
        written.append(stream.getvalue())
    return tuple(written)


def _rows_target(suffix: str) -> FuzzTarget:
    def take(data: bytes, folder: Path) -> None:
        path = folder / f"rows.{suffix}"
        path.write_bytes(data)
        survive(lambda: load_rows(path, columns={"text": "text"}, limit=None))

    corpus = _parquet if suffix == "parquet" else lambda: ROWS[suffix]
    return FuzzTarget(name=f"{suffix}-rows", corpus=corpus, take=take, inputs=SOME, quick=3)


@cache
def _flax_files() -> tuple[bytes, ...]:
    tree = {
        "params": {"a": {"kernel": torch.ones(2, 3)}, "b": torch.zeros(0), "c": torch.ones(1, dtype=torch.bfloat16)}
    }
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        whole, cut = Path(folder) / "whole", Path(folder) / "cut"
        flax.write_tree(tree, whole)
        patch.setattr(flax, "_LARGEST", 8)
        flax.write_tree(tree, cut)
        return whole.read_bytes(), cut.read_bytes()


def _take_flax(data: bytes, folder: Path) -> None:
    path = folder / flax.FILE
    path.write_bytes(data)
    survive(lambda: list(flax.flatten_tree(flax.read_tree(path))))


def _take_flax_array(data: bytes, folder: Path) -> None:
    _take_flax(msgpack.packb({"a": msgpack.ExtType(1, data)}), folder)


@cache
def _configuration() -> tuple[bytes, ...]:
    return (tiny_bert().config.to_json_string(use_diff=False).encode(),)


def _take_configuration(data: bytes, folder: Path) -> None:
    (folder / "config.json").write_bytes(data)
    survive(read_config, folder)


def _modules() -> tuple[bytes, ...]:
    modules = [{"type": f"a.models.{name}", "path": ""} for name in ("Transformer", "Pooling")]
    pooling = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    return (json.dumps({"modules": modules, "pooling": pooling}).encode(),)


def _take_modules(data: bytes, folder: Path) -> None:
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        values = {}
    parts = values if isinstance(values, dict) else {"modules": values}
    (folder / MODULES).write_text(json.dumps(parts.get("modules")))
    (folder / "config.json").write_text(json.dumps(parts.get("pooling", 5)))
    survive(read_sentence_transformers, folder)


TARGETS = (
    FuzzTarget(name="recipes", corpus=_recipes, take=_take_recipe, quick=8),
    FuzzTarget(
        name="recipe-values",
        corpus=lambda: [json.dumps(tomllib.loads(each.decode())).encode() for each in _recipes()],
        take=_take_recipe_values,
        mutations=(change_json,),
    ),
    FuzzTarget(name="options", corpus=lambda: OVERRIDES, take=_take_option, quick=8),
    in_parts("flax-files", _flax_files, _take_flax, change_msgpack, quick=6),
    in_parts("flax-arrays", lambda: [msgpack.packb(each) for each in ARRAYS], _take_flax_array, change_msgpack),
    in_parts("configurations", _configuration, _take_configuration, change_json, inputs=SOME, quick=2),
    in_parts("sentence-transformers", _modules, _take_modules, change_json, inputs=SOME, quick=2),
    *(_rows_target(suffix) for suffix in (*ROWS, "parquet")),
)
"""Every target of this package."""
