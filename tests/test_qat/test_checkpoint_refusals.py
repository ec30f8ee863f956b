"""Checkpoint folders that are refused, each with the line a user reads."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qat.checkpoint import load_checkpoint, read_config
from qat.errors import CheckpointError
from tests.calibrated import TASK, make_calibrated, save_calibrated
from tests.tiny import save_tiny, tiny_albert, tiny_bert, tiny_tokenizer


@pytest.fixture
def float_folder(tmp_path: Path) -> Path:
    return save_tiny(tiny_bert(), tiny_tokenizer(), tmp_path / "tiny-bert")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_calibrated(make_calibrated(tiny_bert()), tmp_path / "calibrated")


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder, TASK)
    message = str(caught.value)
    assert "\n" not in message
    return message


def change_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def drop_tensor(folder: Path, name: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_missing_folder_names_the_nearest_checkpoint(float_folder: Path) -> None:
    (float_folder.parent / "tiny-berd").mkdir()
    assert refusal(float_folder.parent / "tiny-bort") == (
        f"no checkpoint folder {float_folder.parent}/tiny-bort: give the folder of a Hugging Face checkpoint; "
        "did you mean 'tiny-bert'? known: tiny-bert"
    )


def test_a_missing_folder_with_nothing_near(tmp_path: Path) -> None:
    for missing in (tmp_path / "a", tmp_path / "b" / "c"):
        assert refusal(missing) == f"no checkpoint folder {missing}: give the folder of a Hugging Face checkpoint"


def test_a_folder_without_a_checkpoint(tmp_path: Path) -> None:
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path} is no checkpoint: it has no config.json, and nothing else of ")
    assert "huggingface (config.json and model.safetensors or pytorch_model.bin, whole or in shards); flax (" in message
    assert message.endswith("tensorflow (bert_config.json and the .index and .data of TensorFlow 1)")


def test_weights_without_a_configuration(float_folder: Path) -> None:
    (float_folder / "config.json").unlink()
    assert refusal(float_folder) == (
        f"{float_folder} is no checkpoint: it has no config.json; give a folder that save_pretrained or qdq wrote"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"{", "Expecting property name"),
        (b"", "Expecting value"),
        (b"{}", "'model_type'"),
        (b"[1]", "'list' object is not a mapping"),
        (b"\xff\xfe{", "'utf-8' codec"),
    ],
)
def test_a_broken_configuration(folder: Path, text: bytes, reason: str) -> None:
    (folder / "config.json").write_bytes(text)
    message = refusal(folder)
    assert message.startswith(f"{folder}/config.json is no model configuration ({reason}")
    assert message.endswith("): it needs JSON with a model_type")


def test_an_unknown_family_names_the_nearest(float_folder: Path) -> None:
    change_config(float_folder, model_type="albrt")
    assert refusal(float_folder).startswith(
        "model family 'albrt' is not supported: did you mean 'albert'? known: albert, bert, convbert, distilbert, "
        "electra, roberta, squeezebert"
    )


@pytest.mark.parametrize(
    ("entry", "method"), [({"quant_method": "gptq", "bits": 4}, "gptq"), ({"bits": 4}, "None"), ("int8", "int8")]
)
def test_a_checkpoint_that_others_quantized(float_folder: Path, entry: object, method: str) -> None:
    change_config(float_folder, quantization_config=entry)
    assert refusal(float_folder) == (
        f"{float_folder} is quantized by '{method}', not by qdq: give the float checkpoint it was made from"
    )


@pytest.mark.parametrize("entry", [None, {}])
def test_an_empty_quantization_entry_is_a_float_model(float_folder: Path, entry: object) -> None:
    change_config(float_folder, quantization_config=entry)
    assert read_config(float_folder).model_type == "bert"


@pytest.mark.parametrize("kept", [3, 2000, -1])
def test_truncated_weights(folder: Path, kept: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    assert refusal(folder).startswith(f"{folder} cannot be loaded for text-classification: Error while deserializing ")


def test_no_weights_at_all(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    message = refusal(folder)
    assert message.startswith(f"{folder} cannot be loaded for text-classification: Error no file named model.safet")


def test_weights_that_are_missing(folder: Path) -> None:
    drop_tensor(folder, "classifier.weight")
    assert refusal(folder) == (
        f"{folder} lacks weights that BertForSequenceClassification needs (1, the first is 'classifier.weight'): "
        "is it a checkpoint for text-classification?"
    )


def test_weights_of_another_size(float_folder: Path) -> None:
    change_config(float_folder, intermediate_size=128)
    assert refusal(float_folder).startswith(f"{float_folder} cannot be loaded for text-classification: ")


def test_a_calibrated_folder_without_one_of_its_ranges(folder: Path) -> None:
    name = "bert.encoder.layer.1.ffn_quantizer.amax"
    drop_tensor(folder, name)
    assert refusal(folder) == (
        f"{folder} is marked calibrated and lacks ranges (1, the first is '{name}'): run qdq calibrate again"
    )


def test_a_calibrated_folder_with_too_few_depths(tmp_path: Path) -> None:
    folder = save_calibrated(make_calibrated(tiny_albert()), tmp_path / "albert")
    change_config(folder, num_hidden_layers=4)
    assert refusal(folder).startswith(f"{folder} cannot be loaded for text-classification: ")


class MakesFolder:
    """Unpickled carelessly, it makes a folder."""

    def __init__(self, place: Path) -> None:
        self.place = str(place)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.place,)


@pytest.mark.parametrize("form", ["zip", "plain"])
def test_code_in_a_pickle_is_refused_and_does_not_run(float_folder: Path, tmp_path: Path, form: str) -> None:
    trace = tmp_path / "the-code-ran"
    weights = {**tiny_bert().state_dict(), "bert.extra": MakesFolder(trace)}
    (float_folder / "model.safetensors").unlink()
    path = float_folder / "pytorch_model.bin"
    if form == "zip":
        torch.save(weights, path)
    else:
        path.write_bytes(pickle.dumps(MakesFolder(trace), protocol=2))
    assert refusal(float_folder) == (
        f"{float_folder} holds a pickle with more in it than weights, which is not run: "
        "give a checkpoint saved as model.safetensors"
    )
    assert not trace.exists()


def test_the_code_of_that_test_would_run(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(MakesFolder(tmp_path / "the-code-ran")))  # noqa: S301
    assert (tmp_path / "the-code-ran").is_dir()


def test_a_pickle_beside_the_weights_is_not_read(float_folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "the-code-ran"
    for name in ("pytorch_model.bin", "training_args.bin"):
        (float_folder / name).write_bytes(pickle.dumps(MakesFolder(trace), protocol=2))
    load_checkpoint(float_folder, TASK)
    assert not trace.exists()


def test_code_beside_the_weights_is_not_run(float_folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "the-code-ran"
    (float_folder / "mine.py").write_text(f"import os\nos.mkdir({str(trace)!r})\n")
    change_config(float_folder, auto_map={"AutoConfig": "mine.C", "AutoModelForSequenceClassification": "mine.M"})
    assert type(load_checkpoint(float_folder, TASK).model) is type(tiny_bert())
    assert not trace.exists()
