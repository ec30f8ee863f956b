"""PyTorch and safetensors folders, whole and in shards, in every float type, old and damaged ones."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertForMaskedLM, PreTrainedModel

from qat.checkpoint import load_checkpoint, load_whole
from qat.errors import CheckpointError
from tests.calibrated import TASK
from tests.test_command_line.calling import call
from tests.tiny import TINY_MODELS, save_tiny, spread_weights, tiny_bert, tiny_tokenizer

family = pytest.mark.parametrize("make", TINY_MODELS.values(), ids=TINY_MODELS)
POSITIONS = "bert.embeddings.position_ids"


def keep_as(folder: Path, kind: str, dtype: torch.dtype = torch.float32) -> Path:
    """The checkpoint of ``folder`` in files of another kind."""
    weights = {name: value.to(dtype) for name, value in load_file(folder / "model.safetensors").items()}
    (folder / "model.safetensors").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": str(dtype).removeprefix("torch.")}))
    match kind:
        case "safetensors":
            save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        case "bin":
            torch.save(weights, folder / "pytorch_model.bin")
        case "old bin":
            position_ids = torch.arange(config["max_position_embeddings"])[None]
            torch.save(
                {**weights, POSITIONS: position_ids},
                folder / "pytorch_model.bin",
                _use_new_zipfile_serialization=False,
            )
        case "safetensors shards":
            save_torch_state_dict(weights, folder, max_shard_size=20_000)
        case "bin shards":
            save_torch_state_dict(
                weights,
                folder,
                max_shard_size=20_000,
                filename_pattern="pytorch_model{suffix}.bin",
                safe_serialization=False,
            )
    return folder


def assert_same_weights(loaded: PreTrainedModel, expected: PreTrainedModel) -> None:
    wanted = expected.state_dict()
    assert loaded.state_dict().keys() == wanted.keys()
    assert {name for name, value in loaded.state_dict().items() if not torch.equal(value, wanted[name])} == set()
    assert {value.dtype for value in loaded.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("kind", ["bin", "old bin", "safetensors", "safetensors shards", "bin shards"])
def test_every_kind_of_file_gives_the_same_weights(kind: str, tmp_path: Path) -> None:
    folder = keep_as(save_tiny(tiny_bert(), tiny_tokenizer(), tmp_path / "tiny"), kind)
    assert len(list(folder.glob("*-of-*"))) in ((0,) if "shards" not in kind else range(2, 99))
    assert_same_weights(load_checkpoint(folder, TASK).model, tiny_bert())
    assert_same_weights(load_whole(folder).model, tiny_bert())


@family
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_half_precision_becomes_fp32_value_by_value(
    kind: str, dtype: torch.dtype, make: Callable[[], PreTrainedModel], tmp_path: Path
) -> None:
    folder = keep_as(save_tiny(make(), tiny_tokenizer(), tmp_path / "tiny"), kind, dtype)
    rounded = make()
    rounded.load_state_dict({name: value.to(dtype).float() for name, value in rounded.state_dict().items()})
    assert_same_weights(load_checkpoint(folder, TASK).model, rounded)


def test_names_of_the_first_checkpoints_are_understood(tmp_path: Path) -> None:
    folder = save_tiny(tiny_bert(), tiny_tokenizer(), tmp_path / "tiny")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in load_file(folder / "model.safetensors").items()
    }
    (folder / "model.safetensors").unlink()
    torch.save(old, folder / "pytorch_model.bin")
    assert_same_weights(load_checkpoint(folder, TASK).model, tiny_bert())


def masked_lm(folder: Path) -> BertForMaskedLM:
    model = BertForMaskedLM(tiny_bert().config)
    spread_weights(model, seed=1)
    save_tiny(model, tiny_tokenizer(), folder)
    return model


def test_convert_writes_what_every_tool_reads(tmp_path: Path) -> None:
    model = masked_lm(tmp_path / "source")
    keep_as(tmp_path / "source", "bin", torch.float32)
    done = call("convert", tmp_path / "source", "--out", tmp_path / "out", "--json")
    assert (done.code, done.err) == (0, "")
    state: dict[str, Tensor] = model.state_dict()
    assert done.value == {
        "out": str(tmp_path / "out"),
        "format": "huggingface",
        "model": "BertForMaskedLM",
        "tensors": len(state),
        "values": sum(each.numel() for each in state.values()),
    }
    assert_same_weights(BertForMaskedLM.from_pretrained(tmp_path / "out"), model)
    assert not list((tmp_path / "out").glob("*.bin"))
    manifest = json.loads((tmp_path / "out/qdq.json").read_text())
    assert (manifest["stage"], manifest["convert"]["format"]) == ("convert", "huggingface")


def test_convert_needs_to_know_the_head(tmp_path: Path) -> None:
    folder = save_tiny(tiny_bert(), tiny_tokenizer(), tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    del config["architectures"]
    (folder / "config.json").write_text(json.dumps(config))
    done = call("convert", folder, "--out", tmp_path / "out")
    assert (done.code, done.err) == (
        2,
        f"qdq: {folder} does not say which model it holds (architectures is ''): add --task, for instance --task "
        "text-classification\n",
    )
    assert call("convert", folder, "--out", tmp_path / "out", "--task", "text-classification").code == 0
    assert_same_weights(load_whole(tmp_path / "out").model, tiny_bert())


def test_convert_gives_up_no_weight(tmp_path: Path) -> None:
    folder = save_tiny(tiny_bert(), tiny_tokenizer(), tmp_path / "tiny")
    weights = load_file(folder / "model.safetensors") | {"probe.weight": torch.ones(2)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    done = call("convert", folder, "--out", tmp_path / "out")
    assert (done.code, done.err) == (
        2,
        f"qdq: {folder} holds 1 weights that BertForSequenceClassification has no place for (probe.weight): say with "
        "--task which head is wanted\n",
    )
    assert not (tmp_path / "out").exists()


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder, TASK)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("kept", "reason"), [(0, "a file ends too early"), (2000, "PytorchStreamReader failed")])
def test_a_bin_that_ends_too_early(kept: int, reason: str, tmp_path: Path) -> None:
    folder = keep_as(save_tiny(tiny_bert(), tiny_tokenizer(), tmp_path / "tiny"), "bin")
    path = folder / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:kept])
    assert refusal(folder).startswith(f"{folder} cannot be loaded for text-classification: {reason}")


@pytest.mark.parametrize("text", [b"version https://git-lfs.github.com/spec/v1\n", b'{"a": 1}'])
def test_a_bin_that_is_something_else(text: bytes, tmp_path: Path) -> None:
    folder = keep_as(save_tiny(tiny_bert(), tiny_tokenizer(), tmp_path / "tiny"), "bin")
    (folder / "pytorch_model.bin").write_bytes(text)
    assert refusal(folder) == (
        f"{folder} holds PyTorch weights that are damaged or something else under their name: download the file "
        "again, or give a checkpoint saved as model.safetensors"
    )


def test_a_shard_that_is_missing(tmp_path: Path) -> None:
    folder = keep_as(save_tiny(tiny_bert(), tiny_tokenizer(), tmp_path / "tiny"), "safetensors shards")
    gone = sorted(folder.glob("model-*.safetensors"))[1]
    gone.unlink()
    message = refusal(folder)
    assert message.startswith(f"{folder} cannot be loaded for text-classification: ")
    assert gone.name in message


def test_weights_of_a_deeper_model_are_not_dropped_silently(tmp_path: Path) -> None:
    folder = save_tiny(tiny_bert(num_hidden_layers=3), tiny_tokenizer(), tmp_path / "deep")
    shallow = save_tiny(tiny_bert(), tiny_tokenizer(), tmp_path / "shallow")
    shutil.copy(shallow / "config.json", folder)
    assert refusal(folder) == (
        f"{folder} holds 16 weights that its configuration gives no place to "
        "(bert.encoder.layer.2.attention.output.LayerNorm.bias, bert.encoder.layer.2.attention.output.LayerNorm.weight,"
        " bert.encoder.layer.2.attention.output.dense.bias, bert.encoder.layer.2.attention.output.dense.weight, "
        "bert.encoder.layer.2.attention.self.key.bias and 11 more): the two belong to different checkpoints"
    )


def test_a_configuration_of_another_family(tmp_path: Path) -> None:
    folder = save_tiny(tiny_bert(), tiny_tokenizer(), tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "albert"}))
    assert refusal(folder).startswith(f"{folder} lacks weights that AlbertForSequenceClassification needs (")
