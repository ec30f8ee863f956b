"""A quantized model is a transformers model: saved, loaded, cast, trained and resumed by transformers' own code."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

from qat.attention import ATTENTION
from qat.errors import CheckpointError, RangeError, RecipeError
from qat.huggingface import QDQConfig, mark_calibrated, quantization_config, unwrap, wrap
from qat.layers import QuantizedLayer
from qat.quantizer import FakeQuantizer, disable_quantizers, named_quantizers, quantizers_without_range
from qat.recipe import Recipe, WeightGranularity
from tests.test_qat.wrapped import (
    BERT_LAYER,
    FACTS,
    FAMILIES,
    FamilyName,
    TinyModel,
    amax_of,
    give_ranges,
    make_batch,
    make_float,
    make_wrapped,
    same_answers,
)

MISSING = f"{BERT_LAYER}.output.dense.input_quantizer"


def load(folder: Path, **settings: Any) -> TinyModel:
    model: TinyModel = AutoModelForSequenceClassification.from_pretrained(folder, **settings)
    return model


def save(model: TinyModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def same_ranges(first: TinyModel, second: TinyModel) -> bool:
    one, other = amax_of(first), amax_of(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("recipe", ["tensorrt", "qdqbert", "linear"])
@pytest.mark.parametrize("weights", ["per_tensor", "per_channel"])
def test_a_loaded_model_is_the_saved_one(
    family: FamilyName, recipe: str, weights: WeightGranularity, tmp_path: Path
) -> None:
    model = make_wrapped(family, recipe, weights=weights)
    loaded = load(save(model, tmp_path))
    assert same_answers(model, loaded)
    assert same_ranges(model, loaded)
    assert quantization_config(loaded).to_dict() == quantization_config(model).to_dict()
    assert loaded.quantization_report == model.quantization_report


def test_what_the_configuration_remembers(tmp_path: Path) -> None:
    model = make_float("bert")
    wrap(model, "qdqbert", target="tensorrt")
    quantization_config(model).task = {"name": "text-classification"}
    saved = json.loads((save(give_ranges(model), tmp_path) / "config.json").read_text())
    assert saved["quantization_config"] == {
        "quant_method": "qdq",
        "version": 1,
        "recipe": Recipe.load("qdqbert").model_dump(mode="json"),
        "target": "tensorrt",
        "state": "calibrated",
        "task": {"name": "text-classification"},
    }
    assert saved["architectures"] == ["BertForSequenceClassification"]
    assert ATTENTION not in json.dumps({key: value for key, value in saved.items() if key != "quantization_config"})


@pytest.mark.parametrize("family", FAMILIES)
def test_an_unwrapped_model_is_saved_as_a_float_one(family: FamilyName, tmp_path: Path) -> None:
    plain = save(make_float(family), tmp_path / "plain")
    model = load(save(make_wrapped(family), tmp_path / "quantized"))
    unwrap(model)
    unwrapped = save(model, tmp_path / "unwrapped")
    assert json.loads((unwrapped / "config.json").read_text()) == json.loads((plain / "config.json").read_text())
    before, after = load_file(plain / "model.safetensors"), load_file(unwrapped / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    with torch.no_grad():
        assert torch.equal(load(unwrapped)(**make_batch()).logits, make_float(family)(**make_batch()).logits)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_unwrapping_a_loaded_model_gives_the_attention_that_was_asked_for(implementation: str, tmp_path: Path) -> None:
    model = load(save(make_wrapped("bert"), tmp_path), attn_implementation=implementation)
    assert model.config._attn_implementation == ATTENTION
    assert unwrap(model).config._attn_implementation == implementation


@pytest.mark.parametrize("family", FAMILIES)
def test_a_float_folder_is_wrapped_while_it_is_loaded(family: FamilyName, tmp_path: Path) -> None:
    folder = save(make_float(family), tmp_path / "float")
    model = load(folder, quantization_config=QDQConfig(recipe="tensorrt"))
    assert quantization_config(model).state == "uncalibrated"
    with pytest.raises(RangeError, match=r"hidden_quantizer' has no range"):
        model(**make_batch())
    with disable_quantizers(model):
        assert same_answers(model, load(folder, attn_implementation="eager"))
    assert same_answers(give_ranges(model), make_wrapped(family))
    assert same_answers(load(save(model, tmp_path / "quantized")), make_wrapped(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_uncalibrated_folder_comes_back_uncalibrated(family: FamilyName, tmp_path: Path) -> None:
    model = make_float(family)
    wrap(model)
    loaded = load(save(model, tmp_path))
    assert quantization_config(loaded).state == "uncalibrated"
    assert quantizers_without_range(loaded) == quantizers_without_range(model) != []


def test_a_range_missing_from_the_file_is_no_range(tmp_path: Path) -> None:
    path = save(make_wrapped("bert"), tmp_path) / "model.safetensors"
    tensors = load_file(path)
    del tensors[f"{MISSING}.amax"], tensors[f"{BERT_LAYER}.attention.self.probs_quantizer.amax"]
    save_file(tensors, path, metadata={"format": "pt"})
    model = load(tmp_path)
    assert quantizers_without_range(model) == [MISSING]
    assert model.get_submodule(MISSING).get_buffer("amax").isnan().all()
    with pytest.raises(RangeError, match=f"quantizer '{MISSING}' has no range"):
        model(**make_batch())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_ranges_stay_exact_in_a_half_precision_model(family: FamilyName, dtype: torch.dtype, tmp_path: Path) -> None:
    model = make_wrapped(family)
    loaded = load(save(model, tmp_path), dtype=dtype)
    assert loaded.dtype == dtype
    given = {name: amax for name, amax in amax_of(model).items() if "weight_quantizer" not in name}
    assert all(torch.equal(amax_of(loaded)[name], amax) for name, amax in given.items())
    assert {amax.dtype for amax in amax_of(loaded).values()} == {torch.float32}
    assert loaded(**make_batch()).logits.isfinite().all()


def test_half_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`\.half\(\)` is not supported for quantized model"):
        make_wrapped("bert").half()


def test_calibrated_means_every_range() -> None:
    model = make_wrapped("bert")
    for _, quantizer in named_quantizers(model):
        quantizer.clear_range()
    with pytest.raises(CheckpointError) as caught:
        mark_calibrated(model)
    first = f"{BERT_LAYER}.attention.self"
    assert str(caught.value) == (
        f"16 quantizers have no range: {first}.query_quantizer, {first}.key_quantizer, {first}.value_quantizer, ...; "
        "give calibration batches that reach every layer"
    )


def test_a_float_model_has_no_entry() -> None:
    with pytest.raises(CheckpointError) as caught:
        quantization_config(make_float("bert"))
    assert str(caught.value) == ("the model is not quantized: qdq.wrap it, or load a folder that qdq calibrate wrote")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"version": 2}, "quantization_config has version 2, this qdq reads 1: install the qdq that wrote it"),
        (
            {"recepie": "linear"},
            "quantization_config has an unknown key 'recepie': did you mean 'recipe'? "
            "known: quant_method, recipe, state, target, task, version",
        ),
        ({"state": "done"}, "quantization_config has the state 'done': uncalibrated or calibrated expected"),
    ],
)
def test_an_entry_that_is_wrong(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        QDQConfig(**settings)
    assert str(caught.value) == message


def test_a_broken_recipe_in_a_folder_is_named(tmp_path: Path) -> None:
    path = save(make_wrapped("bert"), tmp_path) / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"]["recipe"]["sharing"] = "none"
    path.write_text(json.dumps(config))
    with pytest.raises(RecipeError, match=r"^recipe 'config\.json': sharing: Input should be 'tensor' or 'reader'"):
        load(tmp_path)


@pytest.mark.parametrize(("target", "weights"), [("rtx", "per_tensor"), ("onnxruntime", "per_channel")])
def test_the_target_picks_the_granularity_of_a_named_recipe(target: str, weights: str) -> None:
    assert QDQConfig(recipe="tensorrt", target=target).recipe.weights == weights
    kept = Recipe.load("tensorrt").model_copy(update={"weights": "per_channel"})
    assert QDQConfig(recipe=kept, target=target).recipe is kept


def make_trainer(model: TinyModel, folder: Path) -> Trainer:
    batch = make_batch()
    rows = [{name: values[i % 3] for name, values in batch.items()} for i in range(8)]
    settings = TrainingArguments(
        output_dir=str(folder),
        max_steps=5,
        save_steps=3,
        per_device_train_batch_size=3,
        learning_rate=1e-3,
        report_to=[],
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    return Trainer(model=model, args=settings, train_dataset=rows)


def parameters_of(model: TinyModel) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def weight_ranges_of(model: TinyModel) -> dict[str, Tensor]:
    layers = [(path, module) for path, module in model.named_modules() if isinstance(module, QuantizedLayer)]
    return {path: layer.weight_amax() for path, layer in layers if isinstance(layer.weight_quantizer, FakeQuantizer)}


@pytest.mark.parametrize("family", FAMILIES)
def test_trainer_saves_resumes_and_reloads(family: FamilyName, tmp_path: Path) -> None:
    whole, halves = make_wrapped(family), make_wrapped(family)
    make_trainer(whole, tmp_path / "whole").train()
    resumed = make_trainer(halves, tmp_path / "halves")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert resumed.state.global_step == 5
    start, end, again = (parameters_of(model) for model in (make_wrapped(family), whole, halves))
    assert not any(torch.equal(end[name], start[name]) for name in end if name.endswith("query.weight"))
    assert all(torch.equal(end[name], again[name]) for name in end)
    for model in (whole, halves):
        model.train(mode=False)
    assert same_answers(whole, halves)
    resumed.save_model(str(tmp_path / "final"))
    final = load(tmp_path / "final")
    assert same_answers(final, whole)
    stored, fresh = amax_of(final), weight_ranges_of(final)
    assert len(fresh) == FACTS[family].weights
    assert all(torch.equal(stored[f"{path}.weight_quantizer"], amax) for path, amax in fresh.items())


def test_given_weights_are_what_is_saved(tmp_path: Path) -> None:
    model = make_wrapped("bert")
    given = {name: 2 * values for name, values in model.state_dict().items()}
    model.save_pretrained(tmp_path / "given", state_dict=given)
    model.save_pretrained(tmp_path / "own")
    assert all(torch.equal(load(tmp_path / "given").state_dict()[name], values) for name, values in given.items())
    assert same_answers(load(tmp_path / "own"), model)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        copied.get_parameter("classifier.weight").zero_()
    copied.save_pretrained(tmp_path / "copied")
    assert not load(tmp_path / "copied").get_parameter("classifier.weight").any()
