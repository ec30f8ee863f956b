"""Flax checkpoints: values and answers as transformers 4's, written back, and what is refused."""

import json
from pathlib import Path
from typing import Any

import msgpack
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qat.checkpoint import load_checkpoint, load_whole
from qat.checkpoints import flax
from qat.checkpoints.flax import flatten_tree, read_tree, write_tree
from qat.errors import CheckpointError
from tests.calibrated import TASK
from tests.test_command_line.calling import call
from tests.test_qat.test_checkpoints.reference import (
    FIXTURES,
    copy_fixture,
    largest_difference,
    load_fixture,
    named,
    wrong_weights,
)
from tests.test_qat.test_checkpoints.test_huggingface import assert_same_weights
from tests.tiny import TINY_MODELS, save_tiny, tiny_bert, tiny_tokenizer
from tests.tolerances import FORMULA

fixtures = pytest.mark.parametrize("name", named("flax"))


@fixtures
def test_values_and_answers_are_those_of_transformers_4(name: str, tmp_path: Path) -> None:
    model = load_fixture(name, tmp_path / "flax").model
    assert wrong_weights(name, model) == set()
    assert largest_difference(name, model) < FORMULA.value


def test_every_head_has_a_fixture() -> None:
    heads = {json.loads((FIXTURES / name / "config.json").read_text())["architectures"][0] for name in named("flax")}
    kinds = ("PreTraining", "MaskedLM", "SequenceClassification", "MultipleChoice", "TokenClassification")
    assert heads >= {f"AlbertFor{kind}" for kind in (*kinds, "QuestionAnswering")}


def test_an_untied_bias_belongs_to_the_decoder_too(tmp_path: Path) -> None:
    for name in ("flax-albert-untied", "flax-bert-untied"):
        weights = load_fixture(name, tmp_path / name).model.state_dict()
        (bias,) = (value for key, value in weights.items() if key.endswith("predictions.bias"))
        (twin,) = (value for key, value in weights.items() if key.endswith("decoder.bias"))
        assert torch.equal(bias, twin)
        assert float(bias.abs().max()) > 0


@pytest.mark.parametrize("name", [name for name in named("flax") if "16" not in name])
def test_written_back_it_is_the_same_tree(name: str, tmp_path: Path) -> None:
    source = copy_fixture(name, tmp_path / "source")
    done = call("convert", source, "--out", tmp_path / "out", "--to", "flax", "--json")
    assert (done.code, done.err) == (0, "")
    assert done.value["format"] == "flax"
    files = sorted(source.glob("flax_model*.msgpack"))
    expected = {key: value for path in files for key, value in flatten_tree(read_tree(path))}
    found = dict(flatten_tree(read_tree(tmp_path / "out" / flax.FILE)))
    assert found.keys() == expected.keys()
    assert {key for key, value in expected.items() if not torch.equal(value, found[key])} == set()
    assert_same_weights(load_whole(tmp_path / "out").model, load_whole(source).model)
    assert not list((tmp_path / "out").glob("*.safetensors"))


_SIZES = st.lists(st.integers(0, 4), max_size=3)


@given(st.dictionaries(st.text("abc", min_size=1), st.tuples(_SIZES, st.sampled_from(sorted(flax._TYPES))), max_size=4))
def test_any_tensor_comes_back(entries: dict[str, tuple[list[int], str]]) -> None:
    tree = {key: torch.randn(size).to(flax._TYPES[dtype]) for key, (size, dtype) in entries.items()}
    packed = msgpack.packb(flax._cut(tree), default=flax._encode, use_bin_type=True, strict_types=True)
    back = msgpack.unpackb(packed, ext_hook=flax._decode, raw=False)
    assert back.keys() == tree.keys()
    assert all(torch.equal(back[key], value) and back[key].dtype == value.dtype for key, value in tree.items())


def test_large_arrays_go_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flax, "_LARGEST", 40)
    tree = {"a": {"kernel": torch.randn(5, 7)}, "b": torch.arange(3.0)}
    write_tree(tree, tmp_path / "chunks")
    raw: dict[str, Any] = read_tree(tmp_path / "chunks")
    assert len(raw["a"]["kernel"]["chunks"]) == 4
    found = dict(flatten_tree(raw))
    assert torch.equal(found["a.kernel"], tree["a"]["kernel"])  # type: ignore[index]


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_whole(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copy_fixture("flax-albert-sc", tmp_path / "flax")


@pytest.mark.parametrize("kept", [0, 1, 300, -1])
def test_a_file_that_ends_too_early(folder: Path, kept: int) -> None:
    path = folder / flax.FILE
    path.write_bytes(path.read_bytes()[:kept])
    message = refusal(folder)
    assert message.startswith(f"{path} is no Flax checkpoint, or ends too early (")
    assert message.endswith("): download it again, or give the folder it was saved in by save_pretrained")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "is no Flax checkpoint, or ends too early ("),
        (msgpack.packb([1, 2]), "is no Flax checkpoint: it holds a list, not a tree of arrays"),
        (msgpack.packb({"a": msgpack.ExtType(9, b"")}), "ends too early (an extension of type 9)"),
        (
            msgpack.packb({"a": msgpack.ExtType(1, msgpack.packb(((2,), "float32", b"1234")))}),
            "ends too early (an array of 8 bytes in 4)",
        ),
        (
            msgpack.packb({"a": msgpack.ExtType(1, msgpack.packb(((1,), "complex64", b"12345678")))}),
            "ends too early (an array of type complex64)",
        ),
    ],
)
def test_a_file_that_is_something_else(folder: Path, data: bytes, reason: str) -> None:
    (folder / flax.FILE).write_bytes(data)
    assert reason in refusal(folder)


def test_a_tree_with_something_else_in_it(folder: Path) -> None:
    (folder / flax.FILE).write_bytes(msgpack.packb({"albert": {"step": 3}}))
    assert refusal(folder) == "'albert.step' in a Flax checkpoint is a int, not an array"


def test_shards_that_are_missing(tmp_path: Path) -> None:
    folder = copy_fixture("flax-albert-shards", tmp_path / "flax")
    gone = sorted(folder.glob("flax_model-*"))[0]
    gone.unlink()
    assert refusal(folder) == (
        f"{folder} lacks shards that flax_model.msgpack.index.json names (1, the first is {gone.name})"
    )
    (folder / flax.INDEX).write_text("{}")
    assert refusal(folder).startswith(f"{folder}/{flax.INDEX} is no index of shards ('weight_map')")


def test_weights_of_another_head(folder: Path) -> None:
    from qat.tasks import find_task

    with pytest.raises(CheckpointError, match=r"lacks weights that AlbertForQuestionAnswering needs \(2, the first is"):
        load_checkpoint(folder, find_task("question-answering"))


def test_weights_under_the_wrong_configuration(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_groups": 2}))
    assert "lacks weights that AlbertForSequenceClassification needs (16" in refusal(folder)
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "convbert"}))
    assert refusal(folder) == "transformers never had Flax models of 'convbert': known: albert, bert"


def test_pytorch_weights_come_first(tmp_path: Path) -> None:
    folder = save_tiny(tiny_bert(), tiny_tokenizer(), tmp_path / "both")
    (folder / flax.FILE).write_bytes(b"broken")
    assert_same_weights(load_checkpoint(folder, TASK).model, tiny_bert())


@pytest.mark.parametrize("family", ["convbert", "squeezebert"])
def test_families_that_never_were_in_flax(family: str, tmp_path: Path) -> None:
    folder = save_tiny(TINY_MODELS[family](), tiny_tokenizer(), tmp_path / "tiny")
    done = call("convert", folder, "--out", tmp_path / "out", "--to", "flax")
    assert (done.code, done.err) == (
        2,
        f"qdq: transformers never had Flax models of '{family}': known: albert, bert\n",
    )
    assert not (tmp_path / "out").exists()


def test_models_that_flax_cannot_build(tmp_path: Path) -> None:
    folder = copy_fixture("torch-bert-relative-key", tmp_path / "relative")
    done = call("convert", folder, "--out", tmp_path / "out", "--to", "flax")
    assert (done.code, done.err) == (
        2,
        "qdq: transformers' Flax models had no quantizers, relative positions or pruned heads: only a plain float "
        "model can be written for Flax\n",
    )
    done = call("convert", folder, "--out", tmp_path / "out", "--to", "onnx")
    assert (done.code, done.err) == (2, "qdq: --to 'onnx' is unknown: known: flax, safetensors\n")
