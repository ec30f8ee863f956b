"""What cannot be answered is refused in words: foreign tokenizers, lost labels, empty texts, missing providers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import BertTokenizer

import qdq
from export.engine_spec import ShapeRange
from export.exported import ExportedModel
from export.predict import Asking, Predictor
from export.runners import tensorrt_runner
from export.runners.artefact import open_artefact
from export.runners.load import load_runner
from export.runners.onnxruntime_runner import OnnxRuntimeRunner, list_providers
from export.runners.running import Running
from export.runners.tensorrt_runner import TensorRtRunner
from qat.artefacts import hash_file
from qat.errors import BuildError, CheckpointError, DataError, QDQError
from tests.test_export.tiny_models import BERT, Case, make_batch
from tests.tiny import save_tiny, tiny_bert, tiny_tokenizer
from tests.tiny_heads import head_model

TASK = "text-classification"


def refuse(call: Callable[[], object], kind: type[QDQError]) -> str:
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


@pytest.fixture
def folder(export_case: Callable[[Case], ExportedModel], tmp_path: Path) -> Path:
    return Path(shutil.copytree(export_case(BERT).folder, tmp_path / "onnx"))


@pytest.fixture
def float_folder(tmp_path: Path) -> Path:
    return save_tiny(tiny_bert(), tiny_tokenizer(), tmp_path / "float")


def test_the_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    words = list(tiny_tokenizer().get_vocab())
    swapped = {word: number for number, word in enumerate([*words[:5], *reversed(words[5:])])}
    BertTokenizer(vocab=swapped, model_max_length=64).save_pretrained(folder)
    assert refuse(lambda: qdq.predict(folder, ["ba"]), CheckpointError) == (
        f"the tokenizer in {folder} is not the one that the graph there was exported with, which numbers tokens "
        "otherwise: keep the files of an exported folder together, or export it again"
    )


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(float_folder: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["zyx", "zyxx"])
    tokenizer.save_pretrained(float_folder)
    size = len(tiny_tokenizer())
    assert refuse(lambda: open_artefact(float_folder, task=TASK), CheckpointError) == (
        f"the tokenizer in {float_folder} has {size + 2} tokens, the model {size}: they belong to different "
        "checkpoints; put the tokenizer that the model was trained with there"
    )


def test_an_engine_is_answered_with_the_tokenizer_it_was_built_beside(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, engine = folder / "model.onnx", tmp_path / "model.engine"
    inputs = {"model.onnx": {"path": str(graph), "hash": hash_file(graph)}}
    monkeypatch.setattr("export.runners.artefact.require_runnable", lambda path: {"inputs": inputs})
    monkeypatch.setattr("export.runners.load.TensorRtRunner", lambda path: load_runner(graph))
    assert qdq.predict(engine, ["ba du"]) == qdq.predict(folder, ["ba du"])
    inputs["model.onnx"]["hash"] = "sha256:another"
    assert refuse(lambda: open_artefact(engine), CheckpointError) == (
        f"{engine} was built from another graph than {graph} is now, so the tokenizer there may not be its own: build "
        "the engine again with qdq build"
    )
    shutil.rmtree(folder)
    assert refuse(lambda: open_artefact(engine), CheckpointError) == (
        f"{engine} was built from {graph}, which is gone, and its tokenizer with it: keep the exported folder, or "
        "build the engine again"
    )


def test_labels_that_config_json_lost_are_refused(folder: Path) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    values |= {"id2label": {"0": "yes", "1": "no"}, "label2id": {"yes": 0, "no": 1}}
    path.write_text(json.dumps(values), encoding="utf-8")
    assert refuse(lambda: qdq.predict(folder, ["ba"]), DataError) == (
        "the model answers 3 labels, but its config.json names 2 (id2label): write the names there, or give the "
        "config.json that belongs to the model"
    )


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_text_is_refused_by_its_row(float_folder: Path, text: str) -> None:
    assert refuse(lambda: qdq.predict(float_folder, ["ba", text], task=TASK), DataError) == (
        "the texts given, row 2: column 'text' is an empty text; expected at least one word"
    )


def test_an_empty_row_of_a_later_part_has_its_own_number(
    float_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text('{"text": "ba"}\n' * 5 + '{"text": ""}\n', encoding="utf-8")
    monkeypatch.setattr("export.predict._CHUNK", 2)
    with Predictor(float_folder, task=TASK, asking=Asking(batch_size=2)) as predictor:
        parts = predictor.stream(data)
        assert len(next(parts)) == 4
        message = refuse(lambda: next(parts), DataError)
    assert message == f"{data}, row 6: column 'text' is an empty text; expected at least one word"


def test_rows_whose_columns_change_are_refused(
    float_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text('{"text": "ba"}\n{"text": "ba", "text_pair": "du"}\n', encoding="utf-8")
    monkeypatch.setattr("export.predict._CHUNK", 1)
    with Predictor(float_folder, task=TASK, asking=Asking(batch_size=1)) as predictor:
        message = refuse(lambda: list(predictor.stream(data)), DataError)
    assert message == (
        f"{data}, rows 2 to 2 have the columns text, text_pair of text-classification, the rows before text: give all "
        "rows the same ones"
    )


def test_a_text_alone_is_refused_by_a_task_that_reads_more(tmp_path: Path) -> None:
    folder = save_tiny(head_model("question-answering", "bert"), tiny_tokenizer(), tmp_path / "float")
    assert refuse(lambda: qdq.predict(folder, ["ba"], task="question-answering"), DataError) == (
        "question-answering reads question, context, but a text alone was given: give rows with these columns, as a "
        "file with --data or as mappings from Python"
    )


def test_a_text_without_a_mask_is_refused(tmp_path: Path) -> None:
    folder = save_tiny(head_model("fill-mask", "bert"), tiny_tokenizer(), tmp_path / "float")
    assert refuse(lambda: qdq.predict(folder, ["ba [MASK]", "ba"], task="fill-mask"), DataError) == (
        "the texts given, row 2: the text has no [MASK] among the tokens that a row keeps: write [MASK] where a word "
        "is to be found"
    )


def test_a_batch_larger_than_the_profiles_of_an_engine_is_refused() -> None:
    runner = TensorRtRunner.__new__(TensorRtRunner)
    runner._profiles = (ShapeRange(batch=(1, 4, 8), sequence=(1, 32, 64)),)
    assert refuse(lambda: runner._bind(16, 32), BuildError) == (
        "16x32 was asked for (rows x tokens), but the engine's profiles take 1x1 to 8x64: stay within one of them, or "
        "build again with --shapes that hold it"
    )


def test_the_bindings_have_what_the_engine_s_runner_touches() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="the builder of the tests: pip install 'qdq[rtx]'")
    touched = {
        "ICudaEngine": (
            *("num_io_tensors", "get_tensor_name", "get_tensor_mode", "get_tensor_shape", "get_tensor_dtype"),
            "create_execution_context",
        ),
        "IExecutionContext": (
            *("set_optimization_profile_async", "set_input_shape", "get_tensor_shape", "set_tensor_address"),
            "execute_async_v3",
        ),
        "Runtime": ("deserialize_cuda_engine",),
        "TensorIOMode": ("INPUT",),
        "DataType": tuple(tensorrt_runner._TYPES),
    }
    assert [
        (owner, name) for owner in touched for name in touched[owner] if not hasattr(getattr(trt, owner), name)
    ] == []


@pytest.mark.gpu
def test_an_engine_answers_as_the_graph_it_was_built_from(
    build_case: Callable[[Case], Any], export_case: Callable[[Case], ExportedModel]
) -> None:
    batch = make_batch(8, 16)
    with TensorRtRunner(build_case(BERT).path) as runner:
        answers = [runner.infer(batch)["logits"] for _ in range(3)]
    plain = load_runner(export_case(BERT).folder, optimized=False).infer(batch)["logits"]
    assert all(np.array_equal(each, answers[0]) for each in answers)
    assert (answers[0].argmax(axis=1) == plain.argmax(axis=1)).sum() >= 7


def test_a_provider_that_is_not_installed_is_named_with_those_that_are(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr("onnxruntime.__version__", "1.2.3")
    asking = Asking(running=Running(provider="CUDA"))
    assert refuse(lambda: qdq.predict(folder, ["ba"], asking=asking), BuildError) == (
        "this ONNX Runtime (1.2.3) does not have the provider 'CUDA', it has CPU: install onnxruntime-gpu (the extra "
        "qdq[gpu]) in place of onnxruntime"
    )
    assert refuse(lambda: list_providers("CoreML"), BuildError) == (
        "this ONNX Runtime (1.2.3) does not have the provider 'CoreML', it has CPU: install a build of it that does"
    )


def test_an_unknown_provider_is_named_with_its_nearest() -> None:
    assert refuse(lambda: list_providers("Tensort"), BuildError).startswith(
        "ONNX Runtime knows no provider 'Tensort': did you mean 'Tensorrt'? known: ACL, "
    )


def test_a_provider_that_does_not_start_is_not_replaced_in_silence(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "export.runners.onnxruntime_runner.list_providers",
        lambda name: ["CUDAExecutionProvider", "CPUExecutionProvider"],
    )
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"):
        message = refuse(lambda: OnnxRuntimeRunner(folder / "model.onnx", provider="CUDA"), BuildError)
    assert message == (
        "the provider 'CUDA' could not start on this machine (its libraries or its device are missing), and ONNX "
        "Runtime would run on CPUExecutionProvider: leave --provider out for that"
    )


def test_a_provider_is_for_graphs_that_onnx_runtime_runs(float_folder: Path) -> None:
    running = Running(provider="CPU")
    assert refuse(lambda: load_runner(float_folder, task=TASK, running=running), BuildError) == (
        "--provider CPU is one of ONNX Runtime's, but this artefact runs on torch: leave it out, or export for rtx, "
        "tensorrt or onnxruntime"
    )


def test_several_streams_need_the_goal_throughput() -> None:
    assert refuse(lambda: Running(streams=2), BuildError) == (
        "2 streams were asked for with goal 'latency', which runs one batch after the other: use --goal throughput"
    )


def test_streams_share_the_threads() -> None:
    assert (Running().at_once, Running().threads_each) == (1, 0)
    many = Running(goal="throughput", streams=3)
    assert (many.at_once, many.threads_each) == (3, 1)
    assert Running(goal="throughput", streams=3, threads=2).threads_each == 2
