"""A repository that a server would not load, or would answer wrongly, is found before it is served."""

import json
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from google.protobuf import text_format  # type: ignore[import-untyped]  # ships no types
from onnx import numpy_helper
from transformers import BertTokenizer

from export.deploy.check import check_repository
from export.deploy.repository import deploy
from export.deploy.settings import DeploySettings
from qat.errors import QDQError
from tests.test_export.served import TEXT, TOKENS, Served, make_graph, save_engine, save_exported
from tests.tiny import tiny_tokenizer

Edit = Callable[[Any], None]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The folder of a classifier in a repository."""
    return put(tmp_path)


def put(tmp_path: Path, served: Served = TEXT, **settings: Any) -> Path:
    exported = save_exported(tmp_path / "onnx", served)
    chosen = DeploySettings(**{"shapes": "1x8,4x16", **settings})
    return deploy(exported, tmp_path / "models", name="served", settings=chosen).folder


def put_engine(tmp_path: Path) -> Path:
    engine = save_engine(save_exported(tmp_path / "onnx", target="tensorrt"))
    return deploy(engine, tmp_path / "models", name="served").folder


def edit(model: Path, change: Edit) -> None:
    """The model's configuration, changed as a person would in an editor."""
    path = model / "config.pbtxt"
    config = text_format.Parse(path.read_text(), import_module("tritonclient.grpc.model_config_pb2").ModelConfig())
    change(config)
    path.write_text(text_format.MessageToString(config))


def found(model: Path) -> str:
    with pytest.raises(QDQError) as caught:
        check_repository(model.parent)
    return str(caught.value)


def test_what_was_deployed_passes(model: Path) -> None:
    (checked,) = check_repository(model.parent)
    assert (checked.name, checked.backend, checked.not_run) == ("served", "onnxruntime", "")
    assert [(each.request, each.shapes) for each in checked.answered] == [
        ("1x8", {"logits": (1, 3)}),
        ("4x16", {"logits": (4, 3)}),
    ]


def set_dims(tensor: Any, *dims: int) -> None:
    del tensor.dims[:]
    tensor.dims.extend(dims)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda config: set_dims(config.output[0], 4),
            "{config} declares the output 'logits' with dims [4], but the model has batchx3, which is [3] here: write "
            "that, or deploy again",
            id="a wrong size",
        ),
        pytest.param(
            lambda config: set_dims(config.output[0], -1, 3),
            "{config} declares the output 'logits' with dims [-1, 3], but the model has batchx3, which is [3] here: "
            "write that, or deploy again",
            id="an axis too many",
        ),
        pytest.param(
            lambda config: setattr(config.input[0], "data_type", 8),
            "{config} declares the input 'input_ids' as TYPE_INT32, but the model has it as TYPE_INT64: write that, or "
            "deploy again",
            id="a wrong type",
        ),
        pytest.param(
            lambda config: setattr(config.input[1], "name", "attention_maks"),
            "{models} has 2 mistakes: (1) {config} declares the input 'attention_maks', which the model has not: did "
            "you mean 'attention_mask'? known: attention_mask, input_ids (2) {config} does not declare the input "
            "'attention_mask', which the model needs; it declares attention_maks, input_ids: add it, or deploy again",
            id="a wrong name",
        ),
        pytest.param(
            lambda config: config.input.pop(),
            "{config} does not declare the input 'attention_mask', which the model needs; it declares input_ids: add "
            "it, or deploy again",
            id="an input left out",
        ),
        pytest.param(
            lambda config: config.output.pop(),
            "{config} declares no output; the model has logits: add them, or deploy again",
            id="no output",
        ),
        pytest.param(
            lambda config: setattr(config, "name", "other"),
            "{config} names the model 'other', but its folder is 'served': give both one name",
            id="a wrong folder",
        ),
        pytest.param(
            lambda config: setattr(config, "backend", "onnxruntme"),
            "{config} has the backend 'onnxruntme': did you mean 'onnxruntime'? known: onnxruntime, tensorrt",
            id="a wrong backend",
        ),
        pytest.param(
            lambda config: config.dynamic_batching.preferred_batch_size.append(8),
            "{config}: preferred_batch_size 8 is not within max_batch_size 4: a server refuses that; leave it out or "
            "make it smaller",
            id="a preferred batch too large",
        ),
        pytest.param(
            lambda config: setattr(config.model_warmup[1], "batch_size", 16),
            "served: warm-up '4x16' has 16 rows, but max_batch_size is 4: give it fewer, or deploy again",
            id="a warm-up too large",
        ),
        pytest.param(
            lambda config: set_dims(config.model_warmup[0].inputs["input_ids"], -1),
            "served: warm-up '1x8' feeds input_ids of shape [-1], but it is declared as [-1]: deploy again",
            id="a warm-up of no size",
        ),
        pytest.param(
            lambda config: setattr(config.model_warmup[0].inputs["input_ids"], "data_type", 8),
            "served: warm-up '1x8' feeds input_ids as TYPE_INT32, but it is declared as TYPE_INT64: deploy again",
            id="a warm-up of another type",
        ),
        pytest.param(
            lambda config: config.model_warmup[0].inputs.pop("input_ids"),
            "served: warm-up '1x8' feeds attention_mask, but the model takes attention_mask, input_ids: deploy again",
            id="a warm-up without an input",
        ),
        pytest.param(
            lambda config: setattr(config.instance_group[0], "count", 0),
            "{config}: an instance group of 0: expected 1 or more",
            id="no instance",
        ),
        pytest.param(
            lambda config: config.optimization.execution_accelerators.gpu_execution_accelerator.add(name="cuda"),
            "{config}: an instance group of KIND_CPU, but the accelerator 'cuda' needs a GPU: write KIND_GPU, or "
            "deploy again",
            id="an accelerator without its GPU",
        ),
    ],
)
def test_a_mistake_in_the_configuration(change: Edit, message: str, model: Path) -> None:
    edit(model, change)
    assert found(model) == message.format(config=model / "config.pbtxt", models=model.parent)


def test_a_batch_for_a_graph_of_one_shape(tmp_path: Path) -> None:
    model = deploy(save_exported(tmp_path / "onnx", shape=(4, 16)), tmp_path / "models").folder
    edit(model, lambda config: setattr(config, "max_batch_size", 4))
    assert (
        f"{model}/config.pbtxt: max_batch_size is 4, but the model takes one shape, 4x16: set it to 0 with the whole "
        "shape in dims, or deploy again"
    ) in found(model)


def test_a_graph_of_any_batch_without_one(model: Path) -> None:
    edit(model, lambda config: setattr(config, "max_batch_size", 0))
    assert (
        f"{model}/config.pbtxt: max_batch_size is 0, but the model takes any batch: give the largest, or deploy again"
    ) in found(model)


def test_a_batch_larger_than_the_engines_profile(tmp_path: Path) -> None:
    model = put_engine(tmp_path)
    edit(model, lambda config: setattr(config, "max_batch_size", 64))
    assert found(model) == (
        f"{model}/config.pbtxt: max_batch_size 64 was given, but the engine's profiles take up to 16 rows (1x1 to "
        "16x64): give --max-batch 16, or build the engine again with --shapes that hold 64 rows"
    )


def test_an_engine_on_a_cpu(tmp_path: Path) -> None:
    model = put_engine(tmp_path)
    edit(model, lambda config: setattr(config.instance_group[0], "kind", 2))
    assert found(model) == (
        f"{model}/config.pbtxt: an instance group of KIND_CPU, but an engine needs a GPU: write KIND_GPU, or deploy "
        "again"
    )


def test_an_engine_exchanged_for_another(tmp_path: Path) -> None:
    model = put_engine(tmp_path)
    (model / "1" / "model.plan").write_bytes(b"another plan")
    assert found(model) == (
        f"{model}/1/model.plan is not the engine that was deployed, so its profiles are not known: deploy the new one "
        "with qdq deploy"
    )


def test_a_configuration_that_does_not_parse(model: Path) -> None:
    path = model / "config.pbtxt"
    path.write_text("max_bach_size: 4\n")
    assert found(model) == (
        f'{path} is no model configuration (1:1 : Message type "inference.ModelConfig" has no field named '
        '"max_bach_size".): mend that place, or deploy again'
    )


def test_no_configuration(model: Path) -> None:
    path = model / "config.pbtxt"
    path.unlink()
    assert found(model) == f"{path} cannot be read ([Errno 2] No such file or directory: '{path}'): deploy again"


def test_no_model(model: Path) -> None:
    (model / "1" / "model.onnx").rename(model / "1" / "best.onnx")
    assert found(model) == (
        f"{model}/1/model.onnx is missing, there is best.onnx: put the model there, or deploy again"
    )


def test_no_version(model: Path) -> None:
    shutil.rmtree(model / "1")
    assert found(model) == (
        f"{model} has no version folder: expected one with a number for its name, as 1/; deploy again"
    )


def test_the_version_that_a_server_loads_is_the_one_checked(model: Path) -> None:
    (model / "2").mkdir()
    assert found(model) == f"{model}/2/model.onnx is missing, there is nothing: put the model there, or deploy again"


def test_no_labels(model: Path) -> None:
    (model / "labels.txt").unlink()
    assert found(model) == (
        f"{model}/labels.txt is missing: output 'logits' answers with 3 labels, and that file names them, one a line; "
        "put it there, or deploy again"
    )


@pytest.mark.parametrize("served", [TEXT, TOKENS], ids=["a text", "a token"])
def test_labels_of_another_count(served: Served, tmp_path: Path) -> None:
    model = put(tmp_path, served)
    (model / "labels.txt").write_text("animal\n")
    assert found(model) == (
        f"{model}/labels.txt has 1 labels, but output 'logits' answers with {len(served.labels)}: give one a line, in "
        "the order of the model's id2label, or deploy again"
    )


def test_no_tokenizer(model: Path) -> None:
    shutil.rmtree(model / "tokenizer")
    assert found(model) == (
        f"{model}/tokenizer is missing: clients tokenize with it; put the model's tokenizer there, or deploy again"
    )


def test_a_tokenizer_without_its_files(model: Path) -> None:
    for path in (model / "tokenizer").glob("tokenizer*"):
        path.unlink()
    assert found(model) == (
        f"{model}/tokenizer has no tokenizer that can be read: copy the checkpoint's tokenizer files there, or export "
        "again"
    )


def test_a_tokenizer_of_more_words_than_the_model_knows(model: Path) -> None:
    words = {**tiny_tokenizer().get_vocab(), "more": 195, "words": 196}
    BertTokenizer(vocab=words).save_pretrained(model / "tokenizer")
    assert found(model) == (
        f"the tokenizer in {model}/tokenizer has 197 tokens, but the model's embeddings hold 195: the two belong to "
        "different models; put the tokenizer of the checkpoint that was exported there"
    )


def test_a_tokenizer_of_other_words(model: Path) -> None:
    words = sorted(tiny_tokenizer().get_vocab())
    BertTokenizer(vocab={word: number for number, word in enumerate(words)}).save_pretrained(model / "tokenizer")
    assert found(model) == (
        f"the tokenizer in {model}/tokenizer has another vocabulary than the one deployed with the model: its tokens "
        "would mean other words; put the model's own there, or deploy again"
    )


def test_a_model_of_other_inputs(model: Path) -> None:
    onnx.save(make_graph(TEXT, inputs=("input_ids", "attention_mask", "token_type_ids")), model / "1" / "model.onnx")
    assert found(model) == (
        f"{model}/config.pbtxt does not declare the input 'token_type_ids', which the model needs; it declares "
        "attention_mask, input_ids: add it, or deploy again"
    )


def test_a_model_that_is_no_graph(model: Path) -> None:
    (model / "1" / "model.onnx").write_bytes(b"no graph")
    assert found(model).startswith(f"{model}/1/model.onnx cannot be read as ONNX (")


def test_a_warm_up_file_that_is_missing_or_short(model: Path) -> None:
    path = model / "warmup" / "input_ids_8"
    path.write_bytes(b"\0" * 56)
    assert found(model) == (f"served: warm-up '1x8' reads {path}, which has 56 bytes of 64: deploy again")
    path.unlink()
    assert found(model) == f"served: warm-up '1x8' reads {path}, which is missing: deploy again"


def test_a_warm_up_of_tokens_that_the_model_lacks(model: Path) -> None:
    (model / "warmup" / "input_ids_8").write_bytes(np.full(8, 10**6, dtype="<i8").tobytes())
    message = found(model)
    assert message.startswith(f"{model}/1/model.onnx does not run on its warm-up requests (")
    assert message.endswith("): export it again")


def test_a_model_that_answers_with_no_numbers(model: Path) -> None:
    path = model / "1" / "model.onnx"
    graph = onnx.load(path)
    weight = next(tensor for tensor in graph.graph.initializer if tensor.name == "logits_weight")
    weight.CopyFrom(numpy_helper.from_array(np.full((4, 3), np.inf, dtype=np.float32), weight.name))
    onnx.save(graph, path)
    assert found(model) == (
        f"{path}, warm-up '1x8': output 'logits' has values that are no numbers: export the model again, with --data "
        "to find what overflows FP16"
    )


def test_every_mistake_of_every_model_is_told_at_once(tmp_path: Path) -> None:
    model = put(tmp_path)
    shutil.copytree(model, model.parent / "second")
    (model / "labels.txt").unlink()
    message = found(model)
    assert message.startswith(f"{model.parent} has 2 mistakes: (1) {model.parent}/second/config.pbtxt names the model")
    assert f"(2) {model}/labels.txt is missing: " in message


def test_models_from_elsewhere_are_left_alone(model: Path) -> None:
    other = model.parent / "other"
    other.mkdir()
    (other / "config.pbtxt").write_text("not: ours")
    assert [each.name for each in check_repository(model.parent)] == ["served"]


def test_a_place_that_is_no_repository(tmp_path: Path, model: Path) -> None:
    assert found(tmp_path / "none" / "x") == (
        f"no model repository at {tmp_path / 'none'}: give a folder that qdq deploy --triton wrote"
    )
    assert found(model / "x") == f"{model} is a model's own folder: give the repository, {model.parent}"
    assert found(tmp_path / "onnx") == (
        f"{tmp_path} has no model that qdq deploy wrote, with its qdq.json; there is models, onnx: write one with qdq "
        f"deploy EXPORTED_FOLDER --triton {tmp_path}"
    )


def test_a_manifest_that_is_not_ours_any_more(model: Path) -> None:
    (model / "qdq.json").write_text(json.dumps({"stage": "deploy"}))
    assert found(model) == f"{model}/qdq.json lacks 'labels', so it is not known what was deployed: deploy again"


def test_a_provider_that_is_not_installed(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(QDQError) as caught:
        check_repository(model.parent, provider="cuda")
    assert str(caught.value) == (
        f"this ONNX Runtime ({ort.__version__}) does not have the provider 'CUDA', it has CPU: install onnxruntime-gpu "
        "(the extra qdq[gpu]) in place of onnxruntime"
    )
