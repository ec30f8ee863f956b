"""Checkpoint folders: what is written, and that it comes back bit by bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from qat.artefacts import hash_file, installed_versions, read_manifest
from qat.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from qat.finetune import finetune
from qat.finetune_settings import FinetuneSettings
from qat.huggingface import wrap
from qat.quantizer import named_quantizers, quantizers_without_range
from tests.calibrated import TASK, encode_tiny, make_calibrated, save_calibrated, tiny_batches
from tests.tiny import TINY_MODELS, save_tiny, tiny_bert, tiny_tokenizer

family = pytest.mark.parametrize("make", TINY_MODELS.values(), ids=TINY_MODELS)
target = pytest.mark.parametrize("target", ["rtx", "tensorrt"])


@pytest.fixture
def float_folder(tmp_path: Path) -> Path:
    return save_tiny(tiny_bert(), tiny_tokenizer(), tmp_path / "tiny-bert")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_calibrated(make_calibrated(tiny_bert()), tmp_path / "calibrated")


def logits_of(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        answers = [model(each["input_ids"], attention_mask=each["attention_mask"]) for each in tiny_batches(seed=5)]
    return torch.cat([answer.logits for answer in answers])


@family
@target
def test_a_calibrated_model_comes_back_bit_by_bit(
    make: Callable[[], PreTrainedModel], target: str, tmp_path: Path
) -> None:
    model = make_calibrated(make(), target=target)
    loaded = load_checkpoint(save_calibrated(model, tmp_path / "out"), TASK)
    assert torch.equal(logits_of(loaded.model), logits_of(model))
    assert not torch.equal(logits_of(loaded.model), logits_of(make())), "the quantizers are on"
    assert [(n, q.amax.tolist()) for n, q in named_quantizers(loaded.model)] == [
        (n, q.amax.tolist()) for n, q in named_quantizers(model)
    ]
    assert not loaded.model.training
    assert loaded.quantization is not None
    assert (loaded.quantization.state, loaded.quantization.target) == ("calibrated", target)
    assert loaded.tokenizer.get_vocab() == tiny_tokenizer().get_vocab()


@family
def test_a_trained_model_comes_back_bit_by_bit(make: Callable[[], PreTrainedModel], tmp_path: Path) -> None:
    model = make_calibrated(make())
    settings = FinetuneSettings(max_steps=3, batch_size=8, learning_rate=1e-3)
    finetune(model, encode_tiny(24), tokenizer=tiny_tokenizer(), settings=settings)
    folder = save_calibrated(model, tmp_path / "out")
    assert torch.equal(logits_of(load_checkpoint(folder, TASK).model), logits_of(model))
    assert_no_pickles(folder)


def test_saving_over_a_folder_replaces_it_whole(folder: Path) -> None:
    (folder / "stale.bin").write_text("old")
    save_calibrated(make_calibrated(tiny_bert(seed=3)), folder)
    assert not (folder / "stale.bin").exists()
    assert torch.equal(logits_of(load_checkpoint(folder, TASK).model), logits_of(make_calibrated(tiny_bert(seed=3))))
    assert [path.name for path in folder.parent.iterdir()] == ["calibrated"]


def test_an_uncalibrated_model_comes_back_without_ranges(tmp_path: Path) -> None:
    model = tiny_bert()
    wrap(model)
    loaded = load_checkpoint(save_calibrated(model, tmp_path / "out"), TASK)
    assert loaded.quantization is not None
    assert loaded.quantization.state == "uncalibrated"
    assert quantizers_without_range(loaded.model) == quantizers_without_range(model) != []
    assert "(recipe `tensorrt`, target `rtx`, uncalibrated)" in (tmp_path / "out" / "README.md").read_text()


def test_a_float_checkpoint_loads_as_it_is(float_folder: Path) -> None:
    loaded = load_checkpoint(str(float_folder), TASK)
    assert (loaded.quantization, loaded.folder) == (None, float_folder)
    assert torch.equal(logits_of(loaded.model), logits_of(tiny_bert()))


def assert_no_pickles(folder: Path) -> None:
    names = {path.name for path in folder.rglob("*")}
    assert "model.safetensors" in names
    assert "training_args.bin" not in names
    assert [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl", ".ckpt"))] == []


def test_the_folder_is_complete_and_holds_no_pickles(folder: Path) -> None:
    assert_no_pickles(folder)
    expected = {"README.md", "config.json", "model.safetensors", "qdq.json", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in folder.iterdir()} == expected


def test_the_card_says_import_qdq(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    assert "\nimport qdq  #" in card
    assert "from transformers import BertForSequenceClassification\n" in card
    assert "recipe `tensorrt`, target `rtx`, calibrated" in card


def test_the_manifest_says_what_made_it(float_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("{}")
    checkpoint = Checkpoint(folder=float_folder, model=make_calibrated(tiny_bert()), tokenizer=tiny_tokenizer())
    inputs = {"checkpoint": float_folder, "data": data, "gone": tmp_path / "gone"}
    out = save_checkpoint(checkpoint, tmp_path / "out", stage="finetune", inputs=inputs, facts={"rows": 7})
    manifest: dict[str, Any] = read_manifest(out)
    assert manifest.keys() == {"stage", "inputs", "files", "versions", "hardware", "rows"}
    assert (manifest["stage"], manifest["rows"], manifest["versions"]) == ("finetune", 7, installed_versions())
    assert {"python", "torch", "transformers"} <= manifest["versions"].keys()
    assert manifest["hardware"].keys() == {"machine", "processor"}
    assert manifest["inputs"] == {
        "checkpoint": {"path": str(float_folder), "hash": hash_file(float_folder / "model.safetensors")},
        "data": {"path": str(data), "hash": hash_file(data)},
        "gone": {"path": str(tmp_path / "gone"), "hash": None},
    }
