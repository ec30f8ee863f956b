"""A real checkpoint, exported, deployed, checked, and asked by the client that users copy."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from export.deploy.check import check_repository
from export.deploy.repository import deploy
from export.deploy.settings import DeploySettings
from export.exported import export
from qat.huggingface import quantization_config
from tests.calibrated import make_calibrated
from tests.this_cpu import EXACT_BITS
from tests.tiny import LABELS, MAX_LENGTH, tiny_bert, tiny_rows, tiny_tokenizer
from tests.tutorials.serving.ask_triton import STEP, main
from tests.tutorials.serving.kserve import serve

HERE = Path(__file__).parent
TEXTS = [str(row["text"]) for row in tiny_rows(11, seed=3)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of a deployed model, and the labels that the torch model gives the texts."""
    folder = tmp_path_factory.mktemp("served")
    model = tiny_bert()
    encoded = tiny_tokenizer()(TEXTS, padding=True, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        shift = model(**encoded).logits.mean(dim=0)  # or it gives every text one label
        model.get_parameter("classifier.bias").sub_(shift)
    make_calibrated(model, target="onnxruntime", bits=EXACT_BITS)
    quantization_config(model).task = {"name": "text-classification", "inputs": ["input_ids", "attention_mask"]}
    with torch.no_grad():
        numbers = model(**encoded).logits.argmax(dim=1).tolist()
    export(model, folder / "onnx", tokenizer=tiny_tokenizer())
    chosen = DeploySettings(max_batch=4, shapes="1x16,4x64", instances=2)
    made = deploy(folder / "onnx", folder / "models", name="tiny", settings=chosen)
    return made.folder, [LABELS[number] for number in numbers]


def test_the_server_gives_the_torch_models_labels(served: tuple[Path, list[str]]) -> None:
    folder, labels = served
    assert len(set(labels)) > 1
    assert len(check_repository(folder.parent)[0].answered) == 2
    with serve(folder) as (url, seen):
        assert main(url, str(folder), *TEXTS) == labels
    assert [rows for rows, _ in seen] == [4, 4, 3]
    assert all(tokens % STEP == 0 and tokens <= MAX_LENGTH for _, tokens in seen)
    assert [tokens for _, tokens in seen] == sorted(tokens for _, tokens in seen)


def test_a_text_longer_than_the_model_is_cut(served: tuple[Path, list[str]]) -> None:
    folder, _ = served
    with serve(folder) as (url, seen):
        assert len(main(url, str(folder), " ".join(TEXTS))) == 1
    assert seen == [(1, MAX_LENGTH)]


def test_what_the_server_was_not_configured_for_is_refused(served: tuple[Path, list[str]]) -> None:
    """The stand-in judges by the configuration, so a client that builds wrong requests fails this file's first test."""
    folder, _ = served
    http = import_module("tritonclient.http")
    tensor = http.InferInput("input_ids", (5, 8), "INT64")
    tensor.set_data_from_numpy(np.zeros((5, 8), dtype=np.int64), binary_data=False)
    with (
        serve(folder) as (url, _),
        http.InferenceServerClient(url) as client,
        pytest.raises(http.InferenceServerException, match="batch-size must be <= 4 for 'tiny'"),
    ):
        client.infer("tiny", [tensor])


@pytest.mark.long
def test_the_client_runs_as_a_script(served: tuple[Path, list[str]]) -> None:
    folder, labels = served
    with serve(folder) as (url, _):
        done = subprocess.run(
            [sys.executable, str(HERE / "ask_triton.py"), url, str(folder), *TEXTS[:3]],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{label}\t{text}" for label, text in zip(labels, TEXTS[:3], strict=False)]
