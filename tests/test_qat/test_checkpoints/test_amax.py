"""Ranges that pytorch-quantization and ModelOpt stored: kept one by one, answers as QDQBERT's, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from qat.checkpoint import load_checkpoint, load_whole, save_checkpoint
from qat.checkpoints.amax import range_name
from qat.errors import CheckpointError
from qat.layers import QuantizedLayer
from qat.quantizer import named_quantizers
from tests.calibrated import TASK
from tests.test_command_line.calling import call
from tests.test_qat.test_checkpoints.reference import copy_fixture, largest_difference, named, wrong_weights
from tests.test_qat.test_checkpoints.test_huggingface import keep_as
from tests.test_qat.wrapped import make_batch
from tests.tiny import save_tiny, tiny_albert, tiny_bert, tiny_tokenizer
from tests.tolerances import FORMULA

fixtures = pytest.mark.parametrize("name", named("qdqbert"))


def ranges_of(folder: Path) -> dict[str, Tensor]:
    stored = load_file(folder / "model.safetensors")
    return {range_name(name): value for name, value in stored.items() if name.endswith("._amax")}


@fixtures
@pytest.mark.parametrize("kind", ["safetensors", "bin", "old bin", "safetensors shards"])
def test_qdqbert_becomes_a_calibrated_bert(name: str, kind: str, tmp_path: Path) -> None:
    folder = copy_fixture(name, tmp_path / "qdqbert")
    expected = ranges_of(folder)
    loaded = load_checkpoint(keep_as(folder, kind), TASK)
    assert type(loaded.model).__name__ == "BertForSequenceClassification"
    assert wrong_weights(name, loaded.model) == set()
    assert largest_difference(name, loaded.model) < FORMULA.value
    found = {f"{path}.amax": quantizer.amax for path, quantizer in named_quantizers(loaded.model)}
    assert found.keys() == expected.keys()
    assert {path for path, value in expected.items() if not torch.equal(found[path], value.flatten())} == set()
    assert loaded.quantization is not None
    recipe = loaded.quantization.recipe
    assert (recipe.name, recipe.scale_type, recipe.weight_ranges) == ("qdqbert", "float32", "stored")
    granularity = {"channels": ("per_channel", "tensorrt"), "tensors": ("per_tensor", "rtx")}
    assert (recipe.weights, loaded.quantization.target) == granularity[name.removeprefix("qdqbert-")]
    assert loaded.left_over == ()


@fixtures
def test_converted_trained_and_saved_the_ranges_stay(name: str, tmp_path: Path) -> None:
    folder = copy_fixture(name, tmp_path / "qdqbert")
    done = call("convert", folder, "--out", tmp_path / "out", "--task", "text-classification", "--json")
    assert (done.code, done.err) == (0, "")
    assert (done.value["recipe"], done.value["ranges"], done.value["ranges left over"]) == ("qdqbert", 40, "none")
    converted = load_checkpoint(tmp_path / "out", TASK)
    assert largest_difference(name, converted.model) < FORMULA.value
    assert converted.quantization is not None
    assert converted.quantization.task == {"name": "text-classification"}
    with torch.no_grad():
        for module in converted.model.modules():
            if isinstance(module, QuantizedLayer):
                module.weight.mul_(1.5)  # as training moves them
    again = save_checkpoint(converted, tmp_path / "again", stage="finetune", inputs={}, facts={})
    stored = {path: quantizer.amax for path, quantizer in named_quantizers(load_checkpoint(again, TASK).model)}
    expected = ranges_of(folder)
    wrong = [path for path, value in stored.items() if not torch.equal(value, expected[f"{path}.amax"].flatten())]
    assert wrong == []


def test_modelopts_default_is_kept_but_for_what_no_recipe_quantizes(tmp_path: Path) -> None:
    folder = copy_fixture("modelopt-bert", tmp_path / "modelopt")
    expected = ranges_of(folder)
    loaded = load_checkpoint(folder, TASK)
    assert wrong_weights("modelopt-bert", loaded.model) == set()
    assert largest_difference("modelopt-bert", loaded.model) < FORMULA.value
    found = {f"{path}.amax": quantizer.amax for path, quantizer in named_quantizers(loaded.model)}
    assert {path for path, value in found.items() if not torch.equal(value, expected[path].flatten())} == set()
    parts = ("pooler", "classifier", "LayerNorm")
    assert {range_name(name) for name in loaded.left_over} == expected.keys() - found.keys()
    assert all(any(part in name for part in parts) for name in loaded.left_over)
    assert len(found) == 24


def with_ranges(folder: Path, **more: Tensor) -> Path:
    """Ranges as ModelOpt stores them for a Linear's input and weight, every layer's; a name's ``__`` is a dot."""
    weights = load_file(folder / "model.safetensors")
    for name in [name for name in weights if name.endswith(".weight") and weights[name].ndim == 2]:
        if "embeddings" not in name:
            path = name.removesuffix(".weight")
            weights[f"{path}.input_quantizer._amax"] = torch.tensor(3.0)
            weights[f"{path}.weight_quantizer._amax"] = weights[name].abs().amax(1, keepdim=True)
    weights |= {name.replace("__", "."): value for name, value in more.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_what_no_recipe_quantizes_is_left_over_and_named(tmp_path: Path) -> None:
    folder = save_tiny(tiny_bert(), tiny_tokenizer(), tmp_path / "modelopt")
    norm = {"bert__encoder__layer__0__output__LayerNorm__input_quantizer___amax": torch.tensor(2.0)}
    loaded = load_checkpoint(with_ranges(folder, **norm), TASK)
    assert loaded.quantization is not None
    assert (loaded.quantization.recipe.name, loaded.quantization.recipe.weights) == ("linear", "per_channel")
    assert loaded.left_over == (
        "bert.encoder.layer.0.output.LayerNorm.input_quantizer._amax",
        "bert.pooler.dense.input_quantizer._amax",
        "bert.pooler.dense.weight_quantizer._amax",
        "classifier.input_quantizer._amax",
        "classifier.weight_quantizer._amax",
    )
    done = call("convert", folder, "--out", tmp_path / "out", "--json")
    assert (done.code, done.value["ranges left over"]) == (0, ", ".join(loaded.left_over))


def test_a_shared_layer_has_the_range_at_every_depth(tmp_path: Path) -> None:
    loaded = load_whole(with_ranges(save_tiny(tiny_albert(), tiny_tokenizer(), tmp_path / "modelopt")))
    inputs = [each.amax.tolist() for path, each in named_quantizers(loaded.model) if path.endswith("input_quantizer")]
    assert inputs == [[3.0, 3.0, 3.0]] * 6
    assert torch.isfinite(loaded.model(**make_batch()).logits).all()


def test_layers_without_ranges_stay_float(tmp_path: Path) -> None:
    folder = copy_fixture("qdqbert-channels", tmp_path / "qdqbert")
    weights = load_file(folder / "model.safetensors")
    left = {name: value for name, value in weights.items() if not (".layer.1.output." in name and "_amax" in name)}
    save_file(left, folder / "model.safetensors", metadata={"format": "pt"})
    model = load_whole(folder).model
    assert not [path for path, _ in named_quantizers(model) if ".layer.1.output." in path]
    assert len(list(named_quantizers(model))) == 36


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_whole(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copy_fixture("qdqbert-channels", tmp_path / "qdqbert")


def change(folder: Path, **values: Tensor | None) -> None:
    weights = load_file(folder / "model.safetensors")
    for name, value in values.items():
        weights.pop(name.replace("__", "."), None)
        if value is not None:
            weights[name.replace("__", ".")] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


PROBS = "bert__encoder__layer__1__attention__self__matmul_a_input_quantizer._amax"
WEIGHT = "bert__encoder__layer__0__intermediate__dense__"


def test_half_of_what_belongs_together(folder: Path) -> None:
    change(folder, **{PROBS: None, f"{WEIGHT}_weight_quantizer._amax": None})
    assert refusal(folder) == (
        f"{folder} lacks 2 ranges that belong to stored ones (encoder.layer.0.intermediate.dense.weight_quantizer, "
        "encoder.layer.1.attention.self.probs_quantizer): a layer needs those of its input and its weight, an "
        "attention those of its query, key, value and probabilities"
    )


@pytest.mark.parametrize(
    "value", [torch.ones(5, 1), torch.full((12, 1), float("nan")), torch.full((12, 1), -1.0)], ids=["5", "nan", "-1"]
)
def test_a_range_that_is_none(folder: Path, value: Tensor) -> None:
    name = f"{WEIGHT}_weight_quantizer._amax"
    change(folder, **{name: value})
    assert refusal(folder) == (
        f"{folder}: '{name.replace('__', '.')}' of shape {tuple(value.shape)} is no range of 12 values, finite and not "
        "negative"
    )


def test_qdqbert_without_ranges(folder: Path) -> None:
    weights = {name: value for name, value in load_file(folder / "model.safetensors").items() if "_amax" not in name}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert refusal(folder) == (
        f"{folder} says model_type 'qdqbert' and holds no ranges (no weight is named .._quantizer._amax): calibrate it "
        "first, or write model_type 'bert' into its config.json to load it as a float model"
    )


def test_a_smoothed_model(folder: Path) -> None:
    change(folder, **{f"{WEIGHT}input_quantizer._pre_quant_scale": torch.ones(8)})
    assert refusal(folder) == (
        f"{folder} was smoothed (1 scales of inputs, the first is "
        "'bert.encoder.layer.0.intermediate.dense.input_quantizer._pre_quant_scale'), which no recipe keeps: calibrate "
        "the float checkpoint it was made from with qdq calibrate"
    )


def test_damaged_files(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert refusal(folder).startswith(f"{path} is damaged or something else (Error while deserializing header")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "qdqalbert"}))
    assert refusal(folder).startswith("model family 'qdqalbert' is not supported: ")
