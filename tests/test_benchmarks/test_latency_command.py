"""``python -m benchmarks.latency``: everyone is there, in INT8 where it says so, beside ONNX Runtime FP32."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.latency.latency_command import app
from benchmarks.latency.roster import BASELINE, OWN_DYNAMIC, Setting, prepare_contestants
from qat.errors import CheckpointError
from tests.test_export.tiny_models import make_float
from tests.this_cpu import HAS_AVX512
from tests.tiny import save_tiny, tiny_rows, tiny_tokenizer


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save_tiny(make_float("bert", 1), tiny_tokenizer(), tmp_path / "float")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({**row, "label": "LABEL_0"}) for row in tiny_rows(8, 0)), encoding="utf-8")
    return path


def test_everyone_is_timed_at_every_shape(checkpoint: Path, rows: Path) -> None:
    arguments = ["--checkpoint", str(checkpoint), "--data", str(rows), "--texts", "8", "--shapes", "1x4,2x8"]
    done = CliRunner().invoke(app, [*arguments, "--seconds", "0.1", "--clock", "processor"], catch_exceptions=False)
    assert done.exit_code == 0
    found = json.loads(done.stdout.splitlines()[-1])
    kernels = {name: facts["int8_kernels"] for name, facts in found["contestants"].items()}
    assert next(iter(kernels)) == BASELINE
    assert kernels.pop(OWN_DYNAMIC) >= 6
    assert kernels == {
        BASELINE: 0,
        "OpenVINO FP32": 0,
        "OpenVINO float": 0,
        "qdq linear on ONNX Runtime": 6,
        "qdq linear on OpenVINO": 6,
        "qdq tensorrt on ONNX Runtime": 8,
        "qdq tensorrt on OpenVINO": 7 if HAS_AVX512 else 8,  # an attention's two products are one kernel there
    }
    assert [(each["name"], each["shape"]) for each in found["ratios"]][:1] == [(BASELINE, "1x4")]
    assert len(found["ratios"]) == 2 * len(found["contestants"])
    assert all(0 < each["low"] <= each["ratio"] <= each["high"] for each in found["ratios"])
    assert "flags" in found["environment"]["cpu"]


def test_a_missing_model_of_nncf_is_named_first(checkpoint: Path, rows: Path, tmp_path: Path) -> None:
    setting = Setting(checkpoint=checkpoint, task="text-classification", data=rows, nncf=(tmp_path / "model.xml",))
    with pytest.raises(CheckpointError) as caught:
        prepare_contestants(setting, tmp_path, progress=lambda step: None)
    assert str(caught.value) == (
        f"no OpenVINO model at {tmp_path}/model.xml: give the model.xml that python -m benchmarks.peers --keep saved"
    )
