"""Folders of sentence-transformers: what their modules say, in both forms of it, and what cannot be exported."""

import json
from pathlib import Path

import pytest

from qat.errors import CheckpointError
from qat.pooling import Pooling
from qat.sentence_transformers import read_sentence_transformers

FLAGS = {"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
KINDS = ("Transformer", "Pooling", "Normalize")


def write(folder: Path, *kinds: str, pooling: object = FLAGS, path: str = "", longest: int | None = None) -> Path:
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    paths = [path, *(f"{place}_{kind}" for place, kind in enumerate(kinds[1:], start=1))]
    modules = [
        {"idx": i, "name": str(i), "path": where, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, where) in enumerate(zip(kinds, paths, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    if longest is not None:
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": longest}))
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_sentence_transformers(folder)
    return str(caught.value)


def test_a_folder_without_modules_says_nothing(tmp_path: Path) -> None:
    assert read_sentence_transformers(tmp_path) is None


@pytest.mark.parametrize(
    "pooling", [FLAGS, {"pooling_mode": "mean"}, {"pooling_mode_mean_tokens": True, "include_prompt": True}]
)
def test_the_mean_of_tokens_normalized(tmp_path: Path, pooling: object) -> None:
    folder = write(tmp_path, *KINDS, pooling=pooling, longest=48)
    assert read_sentence_transformers(folder) == Pooling(pooling="mean", normalize=True, longest=48)


@pytest.mark.parametrize("pooling", [{"pooling_mode_cls_token": True}, {"pooling_mode": "cls"}])
def test_the_first_token_as_it_is(tmp_path: Path, pooling: object) -> None:
    assert read_sentence_transformers(write(tmp_path, *KINDS[:2], pooling=pooling)) == Pooling(pooling="cls")


@pytest.mark.parametrize(
    ("pooling", "said"),
    [
        ({"pooling_mode_max_tokens": True}, "max_tokens"),
        ({"pooling_mode": "weightedmean"}, "weightedmean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "cls and mean"),
        ({}, "nothing"),
    ],
)
def test_another_pooling_is_refused(tmp_path: Path, pooling: object, said: str) -> None:
    message = refusal(write(tmp_path, *KINDS, pooling=pooling))
    assert message == f"{tmp_path}/1_Pooling/config.json pools by {said}: cls or mean can be exported"


def test_another_module_is_refused(tmp_path: Path) -> None:
    assert refusal(write(tmp_path, "Transformer", "Pooling", "Dense")) == (
        f"{tmp_path}/modules.json lists Transformer, Pooling, Dense: Transformer, Pooling and possibly Normalize can "
        "be exported; a module left out would change every embedding"
    )


def test_a_model_in_a_folder_of_its_own_is_refused(tmp_path: Path) -> None:
    assert refusal(write(tmp_path, *KINDS, path="0_Transformer")) == (
        f"{tmp_path}/modules.json has its model in the folder 0_Transformer: move the files of that folder up beside "
        "modules.json"
    )


def test_damaged_files_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path, *KINDS, pooling=["mean"])
    assert refusal(folder) == f"{tmp_path}/1_Pooling/config.json is damaged: expected an object with the pooling mode"
    (folder / "1_Pooling" / "config.json").unlink()
    assert refusal(folder).startswith(f"{tmp_path}/1_Pooling/config.json cannot be read (")
    (folder / "modules.json").write_text('[{"type": "a.Transformer"}]')
    assert refusal(folder) == (
        f"{tmp_path}/modules.json is damaged (KeyError('path')): expected a list of modules with type and path"
    )
