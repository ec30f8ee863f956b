"""Predictions: of every head the same on every CPU runner, as transformers' own pipelines say them, in any batches."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel, pipeline

import qdq
from calibration.calibrate import calibrate
from calibration.settings import CalibrationSettings
from export.exported import Lowering, trace_model, write_exported
from export.predict import Asking, Predictor
from export.runners.base import Arrays
from export.runners.running import Running
from export.runners.torch_runner import TorchRunner
from export.targets import find_target
from qat.batches import iterate_batches
from qat.huggingface import quantization_config, wrap
from qat.tasks import find_task
from qat.tasks.record import TaskRecord
from tests.tiny import save_tiny, tiny_rows, tiny_tokenizer
from tests.tiny_heads import encode_head, head_model
from tests.told import count_other, make_rows

make_pipeline: Any = pipeline  # its overloads know the tasks that transformers has, not ours
CPU_TARGETS = ("onnxruntime", "openvino")


def save_head(head: str, folder: Path) -> tuple[PreTrainedModel, Path]:
    """The float model with a head, and its folder."""
    model = head_model(head, "bert")
    return model, save_tiny(model, tiny_tokenizer(), folder / head)


def export_single(folder: Path) -> dict[str, Path]:
    """The folders of a model of one label a text, exported for each runtime of the CPU."""
    model, task = head_model("single-label", "bert", layers=1), find_task("text-classification")
    rows = encode_head("single-label", model, 8)
    wrap(model, target="onnxruntime")
    quantization_config(model).task = TaskRecord.of(task, {}, None, rows, model.config).to_dict()
    batches = [batch.to_tensors() for batch in iterate_batches(rows, batch_size=8, pad_token_id=0)]
    calibrate(model, batches, settings=CalibrationSettings(method="max"))
    found, graph = {}, trace_model(model)
    for name in CPU_TARGETS:
        lowering = Lowering(find_target(name), "fp32")
        found[name] = write_exported(graph, model, folder / name, lowering=lowering, tokenizer=tiny_tokenizer()).folder
    return found


def test_labels_are_those_of_transformers_make_pipeline(tmp_path: Path) -> None:
    model, folder = save_head("single-label", tmp_path)
    texts = [str(row["text"]) for row in tiny_rows(9)]
    wanted = make_pipeline("text-classification", model=model, tokenizer=tiny_tokenizer())(texts)
    assert count_other(qdq.predict(folder, texts, task="text-classification"), wanted) == 0


def test_several_labels_are_those_above_one_half_of_transformers_make_pipeline(tmp_path: Path) -> None:
    model, folder = save_head("multi-label", tmp_path)
    texts = [str(row["text"]) for row in tiny_rows(9)]
    every = make_pipeline("text-classification", model=model, tokenizer=tiny_tokenizer(), top_k=None)(texts)
    wanted = [{"labels": [each for each in row if each["score"] > 0.5]} for row in every]
    assert count_other(qdq.predict(folder, texts, task="text-classification"), wanted) == 0


def test_masks_are_filled_as_transformers_pipeline_fills_them(tmp_path: Path) -> None:
    model, folder = save_head("fill-mask", tmp_path)
    texts = [str(row["text"]) for row in make_rows("fill-mask", 5)]
    every = make_pipeline("fill-mask", model=model, tokenizer=tiny_tokenizer(), top_k=2)(texts)
    wanted = [
        {"masks": [{"token": row[0]["token_str"], "score": row[0]["score"]}], "text": row[0]["sequence"]}
        for row in every
    ]
    told = qdq.predict(folder, texts, task="fill-mask")
    assert count_other(told, wanted) == 0
    (mask,) = qdq.predict(folder, texts[:1], task="fill-mask", asking=Asking(top=2))[0]["masks"]
    assert [each["token"] for each in mask["top"]] == [each["token_str"] for each in every[0]]


def test_entities_are_told_with_their_places_in_the_text(tmp_path: Path) -> None:
    _, folder = save_head("token-classification", tmp_path)
    text = "ba  dudu, fifi zuze la bebi"
    (told,) = qdq.predict(folder, [text], task="token-classification")
    words = ["ba", "dudu", ",", "fifi", "zuze", "la", "bebi"]
    (listed,) = qdq.predict(folder, [{"tokens": words}], task="token-classification")
    assert told["entities"]
    assert [each["label"] for each in told["entities"]] == [each["label"] for each in listed["entities"]]
    for each, other in zip(told["entities"], listed["entities"], strict=True):
        assert text[each["start"] : each["end"]] == each["text"]
        assert " ".join(words)[other["start"] : other["end"]] == other["text"]
        assert each["text"].replace(" ", "") == other["text"].replace(" ", "")


def test_an_answer_is_a_part_of_its_context(tmp_path: Path) -> None:
    _, folder = save_head("question-answering", tmp_path)
    rows = make_rows("question-answering", 6)
    for row, told in zip(rows, qdq.predict(folder, rows, task="question-answering"), strict=True):
        assert str(row["context"])[told["start"] : told["end"]] == told["answer"] != ""
        assert 0 < told["score"] <= 1


def test_a_file_is_answered_part_by_part_in_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder = save_head("single-label", tmp_path)
    rows = tiny_rows(23)
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    monkeypatch.setattr("export.predict._CHUNK", 2)
    with Predictor(folder, task="text-classification", asking=Asking(batch_size=3)) as predictor:
        parts = list(predictor.stream(data))
        whole = predictor.predict([str(row["text"]) for row in rows])
    assert [len(part) for part in parts] == [6, 6, 6, 5]
    assert [told for part in parts for told in part] == whole


def test_several_streams_say_the_same_in_the_same_order(tmp_path: Path) -> None:
    folders = export_single(tmp_path)
    rows = make_rows("single-label", 30)
    many = Running(goal="throughput", streams=3)
    for name in CPU_TARGETS:
        asking = partial(Asking, batch_size=2, optimized=False)
        alone = qdq.predict(folders[name], rows, asking=asking())
        assert count_other(qdq.predict(folders[name], rows, asking=asking(running=many)), alone) == 0


def test_rows_of_like_length_share_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder = save_head("single-label", tmp_path)
    fed: list[Mapping[str, Any]] = []
    infer = TorchRunner.infer

    def watch(self: TorchRunner, feed: Mapping[str, Any]) -> Arrays:
        fed.append(feed)
        return infer(self, feed)

    monkeypatch.setattr(TorchRunner, "infer", watch)
    short, long = "ba", " ".join(["ba"] * 30)
    told = qdq.predict(folder, [short, long] * 4, task="text-classification", asking=Asking(batch_size=4))
    assert [feed["input_ids"].shape for feed in fed] == [(4, 32), (4, 3)]
    assert all(feed["attention_mask"].all() for feed in fed)
    assert told[::2] == [told[0]] * 4
    assert told[1::2] == [told[1]] * 4


def test_what_is_too_long_is_counted(tmp_path: Path) -> None:
    _, folder = save_head("single-label", tmp_path)
    with Predictor(folder, task="text-classification", asking=Asking(max_length=8)) as predictor:
        predictor.predict(["ba " * 20, "ba"])
        assert predictor.truncated == 1


def test_no_rows_have_no_predictions(tmp_path: Path) -> None:
    _, folder = save_head("single-label", tmp_path)
    assert qdq.predict(folder, [], task="text-classification") == []
