"""Runners: interchangeable behind one protocol, picked by artefact, and an artefact that cannot run is named."""

from pathlib import Path

import numpy as np
import pytest

import qdq
from export.exported import ExportedModel, Lowering, write_exported
from export.runners.artefact import open_artefact
from export.runners.base import Runner
from export.runners.load import load_runner
from export.runners.onnxruntime_runner import OnnxRuntimeRunner
from export.runners.torch_runner import TorchRunner
from export.targets import find_target
from qat.errors import BuildError, CheckpointError, DataError
from tests.test_export.tiny_models import PAIR, Traced, count_apart, make_batch, make_float, run_float, run_torch
from tests.tiny import save_tiny, tiny_tokenizer
from tests.tolerances import HALF_TO_INT8

TASK = "text-classification"
SHAPE = {"input_ids": ("batch", "sequence"), "attention_mask": ("batch", "sequence")}
FLOAT_SHAPE = {**SHAPE, "token_type_ids": ("batch", "sequence")}
"""A float checkpoint takes whatever rows may have."""


@pytest.fixture(scope="module")
def float_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(make_float("bert", 1), tiny_tokenizer(), tmp_path_factory.mktemp("float"))


@pytest.fixture
def quantized_folder(bert: Traced, tmp_path: Path) -> Path:
    return save_tiny(bert.model, tiny_tokenizer(), tmp_path / "quantized")


def infer(runner: Runner, batch: dict[str, np.ndarray]) -> np.ndarray:
    with runner as opened:
        answers = opened.infer(batch)
    assert list(answers) == ["logits"]
    return answers["logits"].astype(np.float32)


def test_a_quantized_folder_runs_in_torch_as_fake_quantization(bert: Traced, quantized_folder: Path) -> None:
    runner, batch = load_runner(quantized_folder), make_batch(3, 10)
    assert (runner.name, runner.precision, dict(runner.inputs)) == ("torch", "int8 (fake)", SHAPE)
    assert np.array_equal(infer(runner, batch), run_torch(bert.model, batch))


def test_a_float_folder_runs_in_torch_once_its_task_is_given(float_folder: Path) -> None:
    runner, batch = qdq.load_runner(float_folder, task=TASK), make_batch(3, 10)
    assert (runner.name, runner.precision, dict(runner.inputs)) == ("torch", "fp32", FLOAT_SHAPE)
    assert np.array_equal(infer(runner, batch), run_torch(make_float("bert", 1), batch))
    with pytest.raises(DataError) as caught:
        load_runner(float_folder)
    assert str(caught.value) == (
        f"{float_folder} does not say its task: add --task, for instance --task text-classification"
    )


def test_an_exported_folder_runs_in_onnxruntime(exported: ExportedModel, traced: Traced) -> None:
    runner, batch = load_runner(exported.folder, optimized=False, threads=1), make_batch(6, 10)
    assert (runner.name, runner.precision, dict(runner.inputs)) == ("onnxruntime", "int8+fp16", SHAPE)
    fake, plain = run_torch(traced.model, batch), run_float(traced.model, batch)
    lost = np.square(infer(runner, batch) - fake).mean()
    assert np.sqrt(lost) <= HALF_TO_INT8.value * np.sqrt(np.square(plain - fake).mean())


def test_a_bare_file_is_the_folder_s_graph_and_may_be_optimized(exported: ExportedModel) -> None:
    batch = make_batch(2, 6)
    plain = infer(load_runner(exported.onnx_path, optimized=False), batch)
    assert np.array_equal(plain, infer(load_runner(exported.folder, optimized=False), batch))
    assert np.isfinite(infer(load_runner(exported.onnx_path), batch)).all()


def test_a_runner_takes_what_it_needs_from_a_feed(exported: ExportedModel, bert: Traced) -> None:
    batch, wider = make_batch(2, 6), make_batch(2, 6, inputs=PAIR)
    for runner in (load_runner(exported.folder), TorchRunner(bert.model)):
        assert np.array_equal(infer(runner, wider), infer(runner, batch))


def test_a_model_in_training_mode_is_evaluated(bert: Traced) -> None:
    batch = make_batch(2, 6)
    bert.model.train()
    assert count_apart(infer(TorchRunner(bert.model), batch), run_torch(bert.model.eval(), batch)) == 0


def test_an_opened_folder_brings_its_task_tokenizer_and_columns(exported: ExportedModel, traced: Traced) -> None:
    opened = open_artefact(exported.folder)
    assert (opened.task.name, opened.columns, opened.max_length) == (TASK, {}, None)
    assert opened.tokenizer.get_vocab() == tiny_tokenizer().get_vocab()
    assert opened.config.model_type == traced.case.family
    assert open_artefact(exported.onnx_path).task.name == TASK


def test_a_graph_in_bf16_is_refused_with_what_to_do(tmp_path: Path, bert: Traced) -> None:
    made = write_exported(
        bert.graph, bert.model, tmp_path / "onnx", lowering=Lowering(find_target("rtx"), "bf16"), tokenizer=None
    )
    with pytest.raises(BuildError) as caught:
        load_runner(made.folder)
    assert str(caught.value) == (
        f"{made.onnx_path} is in BF16, which ONNX Runtime does not compute on a CPU: build its engine, or export it "
        "again with --precision fp16 or fp32 to run it here"
    )


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^no checkpoint folder .*nothing: give the folder of a Hugging Face"):
        load_runner(tmp_path / "nothing")
    with pytest.raises(CheckpointError) as caught:
        load_runner(tmp_path / "model.onnx")
    assert str(caught.value) == (
        f"no ONNX file at {tmp_path}/model.onnx: give a file, or a folder that qdq export wrote"
    )


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x08\x07"])
def test_a_broken_file_is_named_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"^ONNX Runtime cannot load .*model\.onnx: .*; export it again$"):
        OnnxRuntimeRunner(path)
