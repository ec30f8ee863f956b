"""What cannot be deployed is refused by name, with what to do, and nothing is written."""

import json
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from transformers import BertTokenizer

from export.deploy.repository import deploy
from export.deploy.settings import DeploySettings
from qat.artefacts import write_manifest
from qat.errors import QDQError
from tests.test_export.served import TEXT, make_graph, save_engine, save_exported
from tests.tiny import tiny_tokenizer


def refusal(tmp_path: Path, artefact: Path, name: str | None = None, **settings: Any) -> str:
    repository = tmp_path / "models"
    with pytest.raises(QDQError) as caught:
        deploy(artefact, repository, name=name, settings=DeploySettings(**settings))
    assert not repository.exists()
    return str(caught.value)


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    return save_exported(tmp_path / "onnx", target="tensorrt")


def test_a_folder_without_a_graph(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    assert refusal(tmp_path, folder) == (
        f"{folder} cannot be deployed: expected an exported folder with its model.onnx, or an engine; run qdq export "
        "first"
    )


def test_a_folder_without_a_tokenizer(tmp_path: Path, exported: Path) -> None:
    for path in exported.glob("tokenizer*"):
        path.unlink()
    assert refusal(tmp_path, exported) == (
        f"{exported} has no tokenizer that can be read: copy the checkpoint's tokenizer files there, or export again"
    )


def test_a_tokenizer_of_another_model(tmp_path: Path, exported: Path) -> None:
    onnx.save(make_graph(TEXT, vocabulary=100), exported / "model.onnx")
    assert refusal(tmp_path, exported) == (
        f"the tokenizer in {exported} has 195 tokens, but the model's embeddings hold 100: the two belong to different "
        "models; put the tokenizer of the checkpoint that was exported there"
    )


def test_a_smaller_tokenizer_is_a_padded_table(tmp_path: Path, exported: Path) -> None:
    onnx.save(make_graph(TEXT, vocabulary=200), exported / "model.onnx")
    assert deploy(exported, tmp_path / "models").folder.is_dir()


def test_a_graph_without_token_ids(tmp_path: Path, exported: Path) -> None:
    onnx.save(make_graph(TEXT, inputs=("ids", "attention_mask")), exported / "model.onnx")
    assert refusal(tmp_path, exported) == (
        f"{exported}/model.onnx takes ids (TYPE_INT64), attention_mask (TYPE_INT64): expected input_ids and others of "
        "TYPE_INT64; give a folder that qdq export wrote"
    )


def test_a_decoder_of_two_graphs(tmp_path: Path, exported: Path) -> None:
    facts = {"target": "onnxruntime", "graphs": {"whole": "model.onnx", "step": "model_with_past.onnx"}}
    write_manifest(exported, stage="export", inputs={}, facts=facts)
    assert refusal(tmp_path, exported) == (
        f"{exported} holds a decoder's 2 graphs (model.onnx, model_with_past.onnx), which a server would have to call "
        "in turns: expected an encoder's one; run the decoder with qdq's own runners"
    )


def test_an_engine_of_tensorrt_for_rtx(tmp_path: Path, exported: Path) -> None:
    engine = save_engine(exported, builder="rtx", version="1.7.1")
    assert refusal(tmp_path, engine) == (
        f"{engine} was built by rtx (TensorRT for RTX), but Triton's tensorrt backend loads engines of TensorRT only: "
        f"build it with --builder tensorrt, or deploy {exported}, whose graph ONNX Runtime runs"
    )


def test_an_engine_whose_folder_is_gone(tmp_path: Path, exported: Path) -> None:
    engine = save_engine(exported)
    exported.rename(tmp_path / "moved")
    assert refusal(tmp_path, engine) == (
        f"{engine} was built from {exported}/model.onnx, which is not there: tokenizer and labels are taken from that "
        "folder; put it back, or build the engine again with qdq build"
    )


def test_an_engine_whose_folder_is_another_models_by_now(tmp_path: Path, exported: Path) -> None:
    engine = save_engine(exported)
    onnx.save(make_graph(TEXT, vocabulary=300), exported / "model.onnx")
    assert refusal(tmp_path, engine) == (
        f"{engine} was built from {exported}/model.onnx, which has changed since: the tokenizer there may be another "
        "model's; build the engine again with qdq build"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param(
            {"max_batch": 64},
            "max_batch_size 64 was given, but the engine's profiles take up to 16 rows (1x1 to 16x64): give "
            "--max-batch 16, or build the engine again with --shapes that hold 64 rows",
            id="batch",
        ),
        pytest.param(
            {"shapes": "1x8,32x16"},
            "max_batch_size 32 was given, but the engine's profiles take up to 16 rows (1x1 to 16x64): give "
            "--max-batch 16, or build the engine again with --shapes that hold 32 rows",
            id="warm-up batch",
        ),
        pytest.param(
            {"backend": "onnxruntime"},
            "{engine} is an engine, which the onnxruntime backend does not run: give {exported}, or leave "
            "--backend out",
            id="backend",
        ),
        pytest.param(
            {"provider": "cuda"},
            "--provider cuda is ONNX Runtime's, but {engine} is an engine: leave it out, or give {exported}",
            id="provider",
        ),
    ],
)
def test_settings_that_an_engine_does_not_take(
    settings: dict[str, Any], message: str, tmp_path: Path, exported: Path
) -> None:
    engine = save_engine(exported)
    assert refusal(tmp_path, engine, **settings) == message.format(engine=engine, exported=exported)


def test_a_shape_between_two_profiles(tmp_path: Path, exported: Path) -> None:
    engine = save_engine(exported, shapes="1x1,16x16; 1x17,4x32")
    assert refusal(tmp_path, engine, shapes="8x32") == (
        "8x32 was asked for (rows x tokens), but the engine's profiles take 1x1 to 16x16; 1x17 to 4x32: stay within "
        "one of them, or build again with --shapes that hold it"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param(
            {"backend": "tensorrt"},
            "{exported} is a graph, and the tensorrt backend runs engines: build one with qdq build and give that, or "
            "give --backend onnxruntime --provider tensorrt",
            id="backend",
        ),
        pytest.param(
            {"max_batch": 4, "shapes": "1x8,8x16"},
            "--shapes warm up batches of 8, but --max-batch is 4: give shapes of up to 4 rows",
            id="batch",
        ),
        pytest.param(
            {"shapes": "1x128"},
            "--shapes warm up rows of 128 tokens, but the model takes 64: give sequences of up to 64",
            id="tokens",
        ),
    ],
)
def test_settings_that_a_graph_does_not_take(
    settings: dict[str, Any], message: str, tmp_path: Path, exported: Path
) -> None:
    assert refusal(tmp_path, exported, **settings) == message.format(exported=exported)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param(
            {"max_batch": 8},
            "--max-batch 8 was given, but {exported} takes 4x16 only, which a server cannot batch: leave it out, or "
            "export again without export.shape",
            id="batch",
        ),
        pytest.param(
            {"shapes": "8x16"},
            "--shapes 8x16 were given, but {exported} takes 4x16 only: leave them out, or export again without "
            "export.shape",
            id="shapes",
        ),
    ],
)
def test_settings_that_a_graph_of_one_shape_does_not_take(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    exported = save_exported(tmp_path / "onnx", shape=(4, 16))
    assert refusal(tmp_path, exported, **settings) == message.format(exported=exported)


def test_bf16_on_a_cpu(tmp_path: Path) -> None:
    exported = save_exported(tmp_path / "onnx", precision="bf16")
    assert refusal(tmp_path, exported, provider="cpu") == (
        f"{exported} is in BF16, which ONNX Runtime does not compute on a CPU: give --provider tensorrt, or export it "
        "again with --precision fp16 or fp32"
    )


@pytest.mark.parametrize("name", ["", "../models", "a b", ".hidden"])
def test_a_name_that_is_no_folders(name: str, tmp_path: Path, exported: Path) -> None:
    assert refusal(tmp_path, exported, name=name) == (
        f"--name {name!r} is no name for a model: expected letters, digits, '.', '_' and '-', a letter or digit first; "
        "give another"
    )


def test_a_label_of_two_lines(tmp_path: Path, exported: Path) -> None:
    config = json.loads((exported / "config.json").read_text())
    config["id2label"]["1"] = "plant\nor fungus"
    (exported / "config.json").write_text(json.dumps(config))
    assert refusal(tmp_path, exported) == (
        f"label 'plant\\nor fungus' of {exported} is not one line, as a server's label file needs it: rename it in "
        "id2label and label2id of config.json"
    )


def test_a_model_from_elsewhere_is_not_replaced(tmp_path: Path, exported: Path) -> None:
    other = tmp_path / "models" / "other"
    other.mkdir(parents=True)
    (other / "config.pbtxt").write_text('backend: "python"')
    with pytest.raises(QDQError) as caught:
        deploy(exported, tmp_path / "models", name="other")
    assert str(caught.value) == (
        f"{other} exists and was not written by qdq deploy: choose another --name, or move it away"
    )
    assert [path.name for path in other.iterdir()] == ["config.pbtxt"]


def test_without_tritons_definitions_the_extra_is_named(
    tmp_path: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tritonclient.grpc.model_config_pb2", None)
    message = refusal(tmp_path, exported)
    assert message.startswith("deploying needs Triton's protobuf definitions, which cannot be imported (")
    assert message.endswith("); install them: pip install 'qdq[triton]'")


def test_a_tokenizer_of_as_many_tokens_is_taken_and_remembered(tmp_path: Path, exported: Path) -> None:
    """A count cannot tell two vocabularies of one size apart; what was deployed is what --check compares with."""
    words = sorted(tiny_tokenizer().get_vocab())
    BertTokenizer(vocab={word: number for number, word in enumerate(words)}).save_pretrained(exported)
    first = deploy(exported, tmp_path / "models").folder / "qdq.json"
    again = deploy(save_exported(tmp_path / "second"), tmp_path / "models").folder / "qdq.json"
    assert json.loads(first.read_text())["vocabulary"] != json.loads(again.read_text())["vocabulary"]
