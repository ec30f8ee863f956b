"""TensorFlow 1 checkpoints: values and answers as transformers 4's, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qat.checkpoint import load_checkpoint, load_whole
from qat.checkpoints import tf1
from qat.errors import CheckpointError
from qat.tasks import find_task
from tests.calibrated import TASK
from tests.test_qat.test_checkpoints.reference import (
    copy_fixture,
    largest_difference,
    load_fixture,
    named,
    wrong_weights,
)
from tests.tolerances import FORMULA

Variables = dict[str, NDArray[np.float32]]


@pytest.mark.parametrize("name", named("tf1"))
def test_values_and_answers_are_those_of_transformers_4(name: str, tmp_path: Path) -> None:
    model = load_fixture(name, tmp_path / "tf1").model
    assert wrong_weights(name, model) == set()
    assert largest_difference(name, model) < FORMULA.value


def test_there_is_a_fixture_of_each_kind() -> None:
    assert {name.removeprefix("tf1-") for name in named("tf1")} == {
        *("bert", "albert", "albert-groups", "albert-hub", "convbert", "convbert-groups")
    }


def test_one_of_its_files_is_enough(tmp_path: Path) -> None:
    folder = copy_fixture("tf1-bert", tmp_path / "tf1")
    model = load_whole(folder / "model.ckpt.index").model
    assert wrong_weights("tf1-bert", model) == set()


def test_a_hub_module_keeps_its_variables_in_a_folder(tmp_path: Path) -> None:
    folder = copy_fixture("tf1-albert-hub", tmp_path / "hub")
    (folder / "variables").mkdir()
    (folder / "assets").mkdir()
    (folder / "albert_config.json").rename(folder / "assets/albert_config.json")
    for path in folder.glob("model.ckpt*"):
        path.rename(folder / "variables" / path.name.replace("model.ckpt", "variables"))
    assert wrong_weights("tf1-albert-hub", load_whole(folder).model) == set()


def refusal(place: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_whole(place)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copy_fixture("tf1-bert", tmp_path / "tf1")


@pytest.mark.parametrize(("name", "kept"), [("index", 0), ("index", 100), ("data-00000-of-00001", 0), ("index", -1)])
def test_files_that_end_too_early(folder: Path, name: str, kept: int) -> None:
    path = folder / f"model.ckpt.{name}"
    path.write_bytes(path.read_bytes()[:kept])
    message = refusal(folder)
    assert message.startswith(f"{folder}/model.ckpt.index is no TensorFlow checkpoint, or it or its data is damaged (")
    assert message.endswith("): download it again")


def test_data_with_other_bytes(folder: Path) -> None:
    path = folder / "model.ckpt.data-00000-of-00001"
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    assert "is damaged (" in refusal(folder)


def test_data_that_is_missing(folder: Path) -> None:
    (folder / "model.ckpt.data-00000-of-00001").unlink()
    assert refusal(folder) == (
        f"{folder}/model.ckpt.index has no data beside it: model.ckpt.data-00000-of-00001 is missing"
    )


def test_two_checkpoints_in_a_folder(folder: Path) -> None:
    for path in list(folder.glob("model.ckpt*")):
        shutil.copy(path, path.with_name(path.name.replace("model.ckpt", "model.ckpt-7")))
    assert refusal(folder) == (
        f"{folder} holds 2 TensorFlow checkpoints: give one of its files model.ckpt-7.index, model.ckpt.index"
    )
    assert wrong_weights("tf1-bert", load_whole(folder / "model.ckpt-7.index").model) == set()


def test_a_configuration_that_is_missing_or_another(folder: Path) -> None:
    path = folder / "bert_config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"model_type": "albert"}))
    assert refusal(folder) == f"{path} says model_type 'albert', but the variables are those of 'bert'"
    path.write_text("[")
    assert refusal(folder).startswith(f"{path} is no model configuration (Expecting value")
    path.write_text(json.dumps(values | {"hidden_size": 16}))
    assert refusal(folder).startswith(
        f"{folder}: 37 variables have another shape than their parameters, the first is "
        "'bert/embeddings/word_embeddings' ((16, 8) given, (16, 16) expected)"
    )
    path.unlink()
    assert refusal(folder) == (f"{folder} has no configuration: put bert_config.json or config.json beside it")


def test_no_tokenizer_beside_it(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert refusal(folder).startswith(f"{folder} has no tokenizer: put its vocab.txt, or transformers' tokenizer.json")


@pytest.mark.parametrize(("word", "answer"), [("dog", "dog"), ("Dog", "[UNK]")])
def test_googles_vocabulary_is_cased_where_its_words_are(folder: Path, word: str, answer: str) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", word]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    tokenizer = load_whole(folder).tokenizer
    assert tokenizer.tokenize("dog DOG") == [answer, answer if word == "dog" else "[UNK]"]
    assert tokenizer.model_max_length == 10


def test_weights_of_another_head(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"lacks weights that BertForSequenceClassification needs \(2, the first"):
        load_checkpoint(folder, TASK)


def change(monkeypatch: pytest.MonkeyPatch, folder: Path, **changes: NDArray[np.float32] | None) -> None:
    """Makes the reader find other variables: some gone, some new; ``__`` stands for a slash."""
    names = {name.replace("__", "/"): value for name, value in changes.items()}
    variables = {**tf1.read_variables(folder), **names}
    left = {name: value for name, value in variables.items() if value is not None}
    monkeypatch.setattr(tf1, "read_variables", lambda place: left)


def test_unmatched_names_of_both_sides_are_listed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(
        monkeypatch,
        folder,
        bert__encoder__layer_0__attention__self__query__kernel=None,
        bert__encoder__layer_0__attention__self__relative__kernel=np.ones((2, 2), np.float32),
        bert__strange=np.ones(2, np.float32),
    )
    assert refusal(folder) == (
        f"{folder}: 2 variables have no place in the model (bert/encoder/layer_0/attention/self/relative/kernel, "
        "bert/strange), and 1 parameters have no variable (bert.encoder.layer.0.attention.self.query.weight): do the "
        "variables belong to this configuration?"
    )


def test_variables_of_a_head_without_a_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(monkeypatch, folder, cls__predictions__extra=np.ones(2, np.float32))
    assert refusal(folder).startswith(
        f"{folder} holds 1 weights that BertForPreTraining has no place for (cls.predictions.extra)"
    )


def test_a_fine_tuned_classifier(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``run_classifier.py`` saves it: the head lies at the top, its weight not transposed."""
    weight, bias = np.arange(24, dtype=np.float32).reshape(3, 8), np.ones(3, np.float32)
    heads = {f"cls__{name}": None for name in ("seq_relationship__output_weights", "seq_relationship__output_bias")}
    gone = {name.replace("/", "__"): None for name in tf1.read_variables(folder) if name.startswith("cls/predictions")}
    change(monkeypatch, folder, output_weights=weight, output_bias=bias, **heads, **gone)
    model = load_checkpoint(folder, TASK).model
    assert (type(model).__name__, model.config.num_labels) == ("BertForSequenceClassification", 3)
    assert torch.equal(model.get_parameter("classifier.weight"), torch.from_numpy(weight))
    assert load_whole(folder).model.config.architectures == ["BertForSequenceClassification"]


def test_a_question_answering_head(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, bias = np.arange(16, dtype=np.float32).reshape(2, 8), np.ones(2, np.float32)
    change(monkeypatch, folder, cls__squad__output_weights=weight, cls__squad__output_bias=bias)
    model = load_checkpoint(folder, find_task("question-answering")).model
    assert torch.equal(model.get_parameter("qa_outputs.weight"), torch.from_numpy(weight))


def test_without_tensorflow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorflow", None)
    assert refusal(folder) == (
        f"{folder}/model.ckpt.index is a TensorFlow checkpoint, which TensorFlow reads: run pip install 'qdq[tf]'"
    )
