"""The record of a task: what it holds, how it travels, and how damage is reported."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig, PreTrainedConfig

from qat.checkpoint import Checkpoint, read_config, save_checkpoint
from qat.errors import CheckpointError, DataError
from qat.huggingface import quantization_config
from qat.tasks import find_task
from qat.tasks.base import Encoded, Feature
from qat.tasks.record import KNOWN_INPUTS, TaskRecord, read_task_record
from tests.calibrated import encode_tiny, make_calibrated
from tests.tiny import tiny_bert, tiny_tokenizer

TASK = find_task("text-classification")
FOLDER = Path("my-folder")


def config_with(task: Any) -> PreTrainedConfig:
    config = BertConfig()
    config.quantization_config = {"quant_method": "qdq", "task": task}
    return config


def test_a_record_of_single_texts() -> None:
    assert TaskRecord.of(TASK, {"text": "sentence"}, 32, encode_tiny(2), BertConfig()) == TaskRecord(
        name="text-classification",
        columns={"text": "sentence"},
        max_length=32,
        inputs=("input_ids", "attention_mask"),
        outputs=("logits",),
    )


def test_a_record_of_pairs_has_their_segments() -> None:
    pair: Feature = {
        "input_ids": [2, 5, 3, 6, 3],
        "token_type_ids": [0, 0, 0, 1, 1],
        "attention_mask": [1] * 5,
        "labels": 1,
    }
    rows = Encoded([pair], max_length=8, truncated=0, source="pairs")
    assert TaskRecord.of(TASK, {}, None, rows, BertConfig()).inputs == ("input_ids", "attention_mask", "token_type_ids")


def test_a_record_survives_the_folder(tmp_path: Path) -> None:
    record = TaskRecord.of(TASK, {"text": "sentence", "label": "class"}, 48, encode_tiny(2), BertConfig())
    model = make_calibrated(tiny_bert())
    quantization_config(model).task = record.to_dict()
    checkpoint = Checkpoint(folder=tmp_path, model=model, tokenizer=tiny_tokenizer())
    save_checkpoint(checkpoint, tmp_path / "out", stage="calibrate", inputs={}, facts={})
    assert read_task_record(read_config(tmp_path / "out"), folder=tmp_path / "out", given=None) == record
    assert read_task_record(model.config, folder=tmp_path / "out", given=None) == record


def test_a_record_is_json() -> None:
    record = TaskRecord.of(TASK, {"text": "sentence"}, None, encode_tiny(1), BertConfig())
    assert json.loads(json.dumps(record.to_dict())) == record.to_dict()


@pytest.mark.parametrize("config", [BertConfig(), config_with({}), config_with(None)])
def test_the_given_task_serves_where_there_is_no_record(config: PreTrainedConfig) -> None:
    record = read_task_record(config, folder=FOLDER, given="text-classification")
    assert record == TaskRecord(name="text-classification", inputs=KNOWN_INPUTS)


@pytest.mark.parametrize("config", [BertConfig(), config_with({}), config_with({"max_length": 9})])
def test_nobody_says_the_task(config: PreTrainedConfig) -> None:
    message = "my-folder does not say its task: add --task, for instance --task text-classification"
    with pytest.raises(DataError, match=f"^{message}$"):
        read_task_record(config, folder=FOLDER, given=None)


def test_the_task_may_be_given_again() -> None:
    record = TaskRecord(name="text-classification", columns={"text": "a"}, max_length=9)
    found = read_task_record(config_with(record.to_dict()), folder=FOLDER, given="text-classification")
    assert found == record


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ({"name": "text-classification", "colums": {}}, "unexpected keyword argument 'colums'"),
        ({"name": "text-classification", "inputs": 5}, "'int' object is not iterable"),
        ("text-classification", "dictionary update sequence"),
        (["text-classification"], "dictionary update sequence"),
        (7, "'int' object is not iterable"),
    ],
)
def test_a_damaged_record(task: object, reason: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_task_record(config_with(task), folder=FOLDER, given=None)
    message = str(caught.value)
    assert re.match(
        r"my-folder/config\.json: quantization_config\.task is damaged \(.*\): calibrate the float checkpoint again$",
        message,
    )
    assert reason in message


def test_a_damaged_record_is_not_hidden_by_the_given_task() -> None:
    with pytest.raises(CheckpointError, match=r"quantization_config\.task is damaged"):
        read_task_record(config_with({"colums": {}}), folder=FOLDER, given="text-classification")
    with pytest.raises(CheckpointError, match=r"quantization_config\.task is damaged"):
        read_task_record(config_with("text"), folder=FOLDER, given="text-classification")
