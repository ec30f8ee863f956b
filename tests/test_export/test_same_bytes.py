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

model = TINY_MODELS[sys.argv[2]]()
wrap(model)
calibrate(model, [to_tensors(make_batch(4, 12))], settings=CalibrationSettings(method="max"))
quantization_config(model).task = {"name": "text-classification", "inputs": ["input_ids", "attention_mask"]}
made = export(model, Path(sys.argv[1]) / "onnx", tokenizer=tiny_tokenizer())
files = [path for path in made.folder.rglob("*") if path.is_file()]
found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}
print(json.dumps(found))
"""


def export_elsewhere(folder: Path, seed: str, family: str) -> dict[str, str]:
    """The hashes of the exported files, from a process with that order of sets; every process writes to one place."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, folder, family],
        env={**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.long
@pytest.mark.parametrize("family", TINY_MODELS)
def test_two_processes_write_the_same_folder(family: str, tmp_path: Path) -> None:
    first, second = (export_elsewhere(tmp_path, seed, family) for seed in ("1", "2"))
    assert {"model.onnx", "config.json", "tokenizer.json", "qdq.json"} <= set(first)
    assert first == second
