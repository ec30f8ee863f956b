"""Two processes find what one finds, to the bit, and fail together."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.contracts.source_tree import ROOT
from tests.test_command_line.calling import Workspace, call, make_workspace
from tests.tiny import save_tiny, tiny_bert, tiny_tokenizer

TASK = ("--task", "text-classification")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("distributed"))


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "qdq",
    ]
    settings = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(
    "batch_size", [8, pytest.param(64, marks=pytest.mark.long)], ids=["eight batches", "one batch, one process idle"]
)
def test_two_processes_find_what_one_finds(workspace: Workspace, tmp_path: Path, batch_size: int) -> None:
    arguments = ("calibrate", workspace.checkpoint, *TASK, "--data", workspace.train, "--batch-size", batch_size)
    alone = call(*arguments, "--method", "all", "--json", "--out", tmp_path / "one")
    together = torchrun(*arguments, "--method", "all", "--json", "--out", tmp_path / "two")
    assert (alone.code, together.returncode) == (0, 0), together.stderr
    for name in ("candidates.json", "evidence.json"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    stored = json.loads((tmp_path / "two/candidates.json").read_text())["methods"]
    assert stored.keys() == {"max", "percentile", "mse", "entropy", "best"}
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert together.stdout.count('"rows": 64') == 1
    assert alone.value["tokens"] == int(together.stdout.rpartition('"tokens": ')[2].split(",")[0])


@pytest.mark.long
def test_what_one_process_finds_wrong_ends_both(workspace: Workspace, tmp_path: Path) -> None:
    model = tiny_bert()
    with torch.no_grad():
        model.get_parameter("bert.encoder.layer.1.intermediate.dense.weight")[0, 0] = float("nan")
    broken = save_tiny(model, tiny_tokenizer(), tmp_path / "broken")
    done = torchrun(
        "calibrate", broken, *TASK, "--data", workspace.train, "--batch-size", 32, "--out", tmp_path / "out"
    )
    assert done.returncode != 0
    assert (
        "qdq: activations at 'bert.encoder.layer.1.intermediate.dense.product_quantizer' are not finite in batch 1"
        in (done.stderr)
    )
    assert not (tmp_path / "out").exists()
