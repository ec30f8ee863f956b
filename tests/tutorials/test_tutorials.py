"""Every tutorial, run as its user runs it on the shipped sample, and what the user then looks at."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from benchmarks.sample import CHECKPOINT, TRAIN
from qat.huggingface import quantization_config
from qat.quantizer import named_quantizers, quantizers_without_range
from tests.contracts.source_tree import ROOT
from tests.test_command_line.calling import call, write_rows

HERE = Path(__file__).parent
TUTORIALS = sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith(("test_", "_")))
ROWS, BATCH, PASSES = 32, 8, 5
SHORT = 40
"""Characters of a row at most: the sample's shortest texts, which cost least."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows, the sample calibrated on them, and the same with ranges that clip."""
    home = tmp_path_factory.mktemp("tutorials")
    rows = [json.loads(line) for line in TRAIN.read_text(encoding="utf-8").splitlines()]
    write_rows(home / "train.jsonl", [row for row in rows if len(row["text"]) <= SHORT][:ROWS])
    task = ("--task", "text-classification", "--data", home / "train.jsonl")
    for done in (
        call("calibrate", CHECKPOINT, *task, "--method", "max", "--out", home / "calibrated"),
        call("ranges", home / "calibrated", "--set", "*=x0.2", "--out", home / "clipped"),
    ):
        assert done.code == 0, done.err
    return home


def arguments_of(name: str, home: Path, out: Path) -> list[str]:
    start, more = {
        "wrap_on_load": (CHECKPOINT, ()),
        "distil_from_float": (home / "clipped", (CHECKPOINT,)),  # a good calibration leaves nothing to learn
    }.get(name, (home / "calibrated", ()))
    return [str(each) for each in (start, home / "train.jsonl", out, *more)]


def logits_of(model: PreTrainedModel, home: Path) -> Tensor:
    texts = [json.loads(line)["text"] for line in (home / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    inputs = AutoTokenizer.from_pretrained(CHECKPOINT)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits: Tensor = model.eval()(**inputs).logits
    return logits


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator:UserWarning")
@pytest.mark.parametrize("name", TUTORIALS)
def test_a_tutorial_trains_and_leaves_a_quantized_folder(name: str, home: Path, tmp_path: Path) -> None:
    out = tmp_path / "trained"
    main: Callable[..., tuple[PreTrainedModel, list[float]]] = importlib.import_module(f"tests.tutorials.{name}").main
    torch.manual_seed(0)
    trained, losses = main(*arguments_of(name, home, out))

    a_pass = ROWS // BATCH
    assert len(losses) == PASSES * a_pass
    assert sum(losses[-a_pass:]) < 0.8 * sum(losses[:a_pass])

    loaded = AutoModelForSequenceClassification.from_pretrained(out)
    assert not any(module.training for module in loaded.modules())
    assert quantization_config(loaded).state == "calibrated"
    assert len(dict(named_quantizers(loaded))) == 15
    assert quantizers_without_range(loaded) == []
    again, state = loaded.state_dict(), trained.state_dict()
    assert again.keys() == state.keys()
    assert [key for key in state if not torch.equal(again[key], state[key])] == []
    assert torch.equal(logits_of(loaded, home), logits_of(trained, home))
    ffn = loaded.get_submodule("albert.encoder.albert_layer_groups.0.albert_layers.0.ffn")
    assert torch.equal(ffn.get_buffer("weight_quantizer.amax"), ffn.get_parameter("weight").abs().amax().reshape(1))
    assert [path.suffix for path in out.iterdir() if path.suffix in (".bin", ".pt", ".pkl")] == []


@pytest.mark.parametrize("name", TUTORIALS)
def test_a_tutorials_name_is_no_modules(name: str) -> None:
    """Python puts a script's folder before all others: one called accelerate.py would be taken for the library."""
    assert find_spec(name) is None


@pytest.mark.long
@pytest.mark.parametrize("name", ["stock_trainer", "wrap_on_load"])
def test_a_tutorial_runs_as_a_script_and_its_folder_is_exported(name: str, home: Path, tmp_path: Path) -> None:
    out = tmp_path / "trained"
    done = subprocess.run(
        [sys.executable, str(HERE / f"{name}.py"), *arguments_of(name, home, out)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    task = ("--task", "text-classification")
    assert call("export", out, *task, "--out", tmp_path / "onnx").code == 0
    scores = [
        call("evaluate", artefact, *task, "--data", home / "train.jsonl", "--json").value["value"]
        for artefact in (out, tmp_path / "onnx")
    ]
    assert scores[0] == scores[1]
