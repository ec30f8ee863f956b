"""The same checkpoint gives the same graph, byte by byte, in every process and whatever order Python's sets have."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import TINY_MODELS

CODE = """
import hashlib, json, sys
from pathlib import Path
import tests.conftest
from calibration.calibrate import calibrate
from calibration.settings import CalibrationSettings
from export.exported import export
from qat.huggingface import quantization_config, wrap
from tests.test_export.tiny_models import make_batch, to_tensors
from tests.tiny import TINY_MODELS, tiny_tokenizer

found = {}
for family, make_tiny in TINY_MODELS.items():
    model = make_tiny()
    wrap(model)
    calibrate(model, [to_tensors(make_batch(4, 12))], settings=CalibrationSettings(method="max"))
    quantization_config(model).task = {"name": "text-classification", "inputs": ["input_ids", "attention_mask"]}
    made = export(model, Path(sys.argv[1]) / family, tokenizer=tiny_tokenizer()).folder
    files = [path for path in made.rglob("*") if path.is_file()]
    found[family] = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}
print(json.dumps(found))
"""


def export_elsewhere(folder: Path, seed: str) -> dict[str, dict[str, str]]:
    """The hashes of each family's files, from a process with that order of sets; every process writes to one place."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, folder],
        env={**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, dict[str, str]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.long
def test_two_processes_write_the_same_folders(tmp_path: Path) -> None:
    first, second = (export_elsewhere(tmp_path, seed) for seed in ("1", "2"))
    assert set(first) == set(TINY_MODELS)
    for files in first.values():
        assert {"model.onnx", "config.json", "tokenizer.json", "qdq.json"} <= set(files)
    assert first == second
