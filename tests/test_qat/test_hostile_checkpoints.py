"""Checkpoints made to harm: refused in one line, in bounded memory and time, before anything of theirs runs."""

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import msgpack
import pytest

from export.runners.artefact import open_artefact
from qat.artefacts import read_manifest
from qat.checkpoint import _plain, load_checkpoint, load_whole
from qat.checkpoints.flax import FILE, INDEX
from qat.errors import CheckpointError
from tests.bounded import bounded
from tests.calibrated import TASK
from tests.tiny import save_tiny, tiny_bert, tiny_tokenizer

DEEP = "[" * 100_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny(tiny_bert(), tiny_tokenizer(), tmp_path / "tiny")


@pytest.fixture(autouse=True)
def _bounds() -> Iterator[None]:
    """No test here may take long, or make the process larger by much."""
    with bounded():
        yield


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder, TASK)
    return str(caught.value)


def change(path: Path, values: dict[str, object]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation"])
def test_code_from_the_hub_is_not_run(folder: Path, name: str) -> None:
    change(folder / "config.json", {name: "kernels-community/flash-attn2"})
    assert refusal(folder) == (
        f"the configuration of {folder} asks for code from the hub ({name} is 'kernels-community/flash-attn2'), which "
        f"is not run: take {name} out of it"
    )


def test_the_name_of_a_model_is_no_path(folder: Path) -> None:
    change(folder / "config.json", {"architectures": ["../../evil"], "_name_or_path": "../../evil"})
    with pytest.raises(CheckpointError) as caught:
        load_whole(folder)
    assert str(caught.value) == (
        f"{folder} does not say which model it holds (architectures is '../../evil'): add --task, for instance "
        "--task text-classification"
    )
    change(folder / "config.json", {"model_type": "../../bert"})
    assert refusal(folder).startswith("model family '../../bert' is not supported: ")


@pytest.mark.parametrize(
    ("name", "most"), [("num_labels", 10**6), ("num_hidden_layers", 1000), ("num_hidden_groups", 1000)]
)
def test_a_giant_count_is_refused_before_anything_is_made(folder: Path, name: str, most: int) -> None:
    change(folder / "config.json", {name: 10**12})
    assert refusal(folder) == f"the configuration of {folder} says {name} 1000000000000: expected {most} or fewer"


@pytest.mark.parametrize("name", ["hidden_size", "vocab_size", "max_position_embeddings", "intermediate_size"])
def test_a_giant_shape_takes_no_memory(folder: Path, name: str) -> None:
    change(folder / "config.json", {name: 10**9})
    assert refusal(folder).startswith(f"{folder} cannot be loaded for text-classification: ")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"hidden_size": "abc"}, "Validation error for field 'hidden_size'"),
        ({"num_hidden_layers": 2.5}, "Validation error for field 'num_hidden_layers'"),
        ({"id2label": [1, 2]}, "'list' object has no attribute 'items'"),
        ({"dtype": "evil"}, "module 'torch' has no attribute 'evil'"),
    ],
)
def test_values_that_are_none_are_named(folder: Path, values: dict[str, object], reason: str) -> None:
    change(folder / "config.json", values)
    message = refusal(folder)
    assert message.startswith(f"the configuration of {folder} has a value that is none ({reason}")
    assert message.endswith("): mend it")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"num_attention_heads": 0}, "integer modulo by zero"),
        ({"hidden_act": "__import__"}, "'__import__'"),
        ({"vocab_size": 10**30}, "empty(): argument 'size'"),
    ],
)
def test_values_that_no_model_can_be_made_of(folder: Path, values: dict[str, object], reason: str) -> None:
    change(folder / "config.json", values)
    assert refusal(folder).startswith(f"{folder} cannot be loaded for text-classification: {reason}")


def test_a_configuration_that_nests_without_end(folder: Path) -> None:
    (folder / "config.json").write_text(DEEP)
    message = refusal(folder)
    assert message.startswith(f"{folder}/config.json is no model configuration (maximum recursion depth exceeded")
    (folder / "qdq.json").write_text(DEEP)
    assert read_manifest(folder) == {}


def lie(folder: Path, change: Callable[[dict[str, dict[str, object]], str], object], *, size: int | None = None) -> str:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    end = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:end])
    change(header, next(name for name in header if name != "__metadata__"))
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", size or len(text)) + text + data[end:])
    return refusal(folder)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"shape": [2**40, 2**40]}, "overflow computing buffer size from shape and/or element type"),
        ({"shape": [-1]}, "invalid JSON in header: invalid value: integer `-1`, expected usize"),
        ({"data_offsets": [0, 2**60]}, "invalid shape, data type, or offset for tensor"),
        ({"dtype": "I64"}, "invalid shape, data type, or offset for tensor"),
    ],
)
def test_a_safetensors_header_that_lies(folder: Path, facts: dict[str, object], reason: str) -> None:
    start = f"{folder} cannot be loaded for text-classification: Error while deserializing header: "
    assert lie(folder, lambda header, name: header[name].update(facts)).startswith(start + reason)


@pytest.mark.parametrize("size", [10**9, 2**63])
def test_a_safetensors_header_of_giant_size(folder: Path, size: int) -> None:
    assert lie(folder, lambda header, name: None, size=size).endswith("header too large")


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "deeper/model.safetensors"])
def test_shards_outside_the_folder_are_not_read(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"classifier.weight": name}}))
    assert refusal(folder) == (
        f"{index} names the shard '{name}', which does not lie beside it: copy the file there, and its name into the "
        "index"
    )


@pytest.mark.parametrize("text", ["{}", "[]", DEEP, '{"weight_map": []}', '{"weight_map": {"a": 5}}'])
def test_an_index_that_is_none(folder: Path, text: str) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(text)
    message = refusal(folder)
    assert message.startswith(f"{index} is no index of shards (")
    assert message.endswith("): it needs a weight_map")


@pytest.mark.parametrize("text", ["{", "[]", "{}", DEEP, '{"added_tokens": [], "normalizer": {"type": "Evil"}}'])
def test_a_tokenizer_that_is_none(folder: Path, text: str) -> None:
    (folder / "tokenizer.json").write_text(text)
    message = refusal(folder)
    assert message.startswith(f"the tokenizer in {folder} cannot be read (")
    assert message.endswith("): save it there again with save_pretrained")
    with pytest.raises(CheckpointError, match=r"the tokenizer in .* cannot be read"):
        open_artefact(folder, task="text-classification")


def array(*parts: object) -> bytes:
    packed: bytes = msgpack.packb({"a": msgpack.ExtType(1, msgpack.packb(parts))})
    return packed


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x81\xa1a" * 100_000 + b"\xc0", "ends too early ("),
        (b"\xdd\xff\xff\xff\xff", "4294967295 exceeds max_array_len(5)"),
        (b"\xdf\xff\xff\xff\xff", "4294967295 exceeds max_map_len(2)"),
        (b"\xc6\xff\xff\xff\xff", "incomplete input"),
        (b"\x81\xa1a\xd5\xff12", "invalid timestamp data (length 2)"),
        (array((2**40, 2**40), "float32", b"1234"), "bytes in 4"),
        (array((0, 2**63), "float32", b""), "failed to unpack the object"),
        (array(("../..", 2**63), "float32", b"1234"), "an array whose shape is not of whole numbers"),
        (array((1,), 5, b"1234"), "an array whose type is a int, with 1 axes"),
        (array((1,) * 100_000, "float32", b"1234"), "an array whose type is a bytes, with 100000 axes"),
        (msgpack.packb({"params": 5}), "it holds a int, not a tree of arrays"),
        (msgpack.packb({"a": {"__msgpack_chunked_array__": True, "shape": {"0": 2**62}, "chunks": {}}}), "in chunks"),
    ],
)
def test_a_msgpack_bomb(folder: Path, data: bytes, reason: str) -> None:
    (folder / "model.safetensors").unlink()
    change(folder / "config.json", {"architectures": ["BertForSequenceClassification"]})
    (folder / FILE).write_bytes(data)
    assert reason in refusal(folder)


def test_a_flax_index_that_nests_without_end(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / INDEX).write_text(DEEP)
    assert f"{INDEX} is no index of shards (maximum recursion depth exceeded" in refusal(folder)


def test_a_recipe_cannot_write_into_a_model_card() -> None:
    assert _plain("mine`\n---\n<script>alert(1)</script>") == "mine --- &lt;script&gt;alert(1)&lt;/script&gt;"
