"""Layer tables, engine manifests and ONNX files of any content are read, or refused by an error of ours."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.audit.layer_table import read_layer_table, split_profiles
from export.engine import audit
from export.engine_files import manifest_of
from export.engine_loading import list_profiles, require_manifest
from export.lint import lint
from export.lint_rules import ENGINES
from qat.artefacts import hash_file
from qat.errors import QDQError
from tests.mutations import batches, change_bytes, change_tree
from tests.test_export.lint_graphs import in_branch, linear
from tests.test_export.test_layer_table import GEMM, WAIT, table

SEEDS = st.integers(0, 2**64)
TENSOR = {"Name": "x", "Dimensions": [-1, 64], "Datatype": "Int8"}
LAYER: dict[str, Any] = {
    "Name": "a_myl0_1", "LayerType": "gemm", "Inputs": [TENSOR], "Outputs": [TENSOR], "Constants": [TENSOR],
    "Weights": {"Type": "Int8", "Count": 4}, "Metadata": "[ONNX Layer: a/MatMul]",
}  # fmt: skip
SHAPES = {"batch": [1, 1, 8], "sequence": [1, 16, 64]}
COUNTS = ("kernels", "int8_gemms", "float_gemms", "unplanned_gemms", "int8_attentions", "float_attentions")
FIGURES = ("activation_mb", "layer_bytes", "layer_bytes_to_least", "weight_mb", "int8_mac_share")
MANIFEST: dict[str, Any] = {
    "builder": {"name": "rtx", "version": "1.5"},
    "hardware": ["sm_89"],
    "gpu": None,
    "spec": {"shapes": SHAPES, "more_shapes": [], "features": []},
    "audit": {
        "status": "complete", "reason": "", "split_attentions": 0,
        **dict.fromkeys(COUNTS, 1), **dict.fromkeys(FIGURES, 0.5),
        "rows": [{"name": "a", "planned": True, "kind": "gemm", "dtype": "Int8", "reason": "", "nodes": ["a"]}],
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@batches(8, 2000)
@given(SEEDS)
def test_printed_layer_tables(seed: int) -> None:
    for data in change_bytes([table(GEMM, WAIT, GEMM).encode(), table(WAIT).encode()], seed):
        read = read_layer_table(data.decode(errors="replace"))
        assert bool(read.layers) == (read.reason is None)
        assert split_profiles(read, 2)
        assert all((layer.activation_bytes or 0) >= 0 for layer in read.layers)


@batches(8, 1000)
@given(SEEDS)
def test_layer_tables_of_wrong_values(seed: int) -> None:
    for values in change_tree([{"Layers": [LAYER, LAYER]}], seed):
        read = read_layer_table(json.dumps(values))
        assert bool(read.layers) == (read.reason is None)
        assert all((layer.activation_bytes or 0) >= 0 for layer in read.layers)


@batches(4, 2000)
@given(SEEDS)
def test_engine_manifests(folder: Path, seed: int) -> None:
    path = folder / "model.engine"
    path.write_bytes(b"engine")
    for changed in change_tree([MANIFEST], seed):
        whole = {**changed, "engine": {"hash": hash_file(path)}} if isinstance(changed, dict) else changed
        manifest_of(path).write_text(json.dumps(whole), encoding="utf-8")
        with suppress(QDQError):
            audit(path)
        with suppress(QDQError):
            list_profiles(require_manifest(path))


@batches(3, 100)
@given(SEEDS)
def test_graphs(folder: Path, seed: int) -> None:
    path = folder / "model.onnx"
    targets = sorted(ENGINES)
    for number, data in enumerate(
        change_bytes([linear().SerializeToString(), in_branch(linear()).SerializeToString()], seed)
    ):
        path.write_bytes(data)
        with suppress(QDQError):
            assert lint(path, target=targets[number % len(targets)]).nodes > 0
