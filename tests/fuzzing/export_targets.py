"""What of ``export`` reads files: layer tables, manifests of folders and of engines, ONNX graphs."""

import json
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

from calibration.range_listing import find_methods
from calibration.range_rows import RangeRow
from export.audit.layer_table import read_layer_table, split_profiles
from export.convolutions import read_convolutions
from export.engine import BuildSettings, audit, build
from export.engine_files import Origin, explain_rebuild, manifest_of, read_built
from export.engine_loading import read_origin, require_manifest
from export.engine_spec import EngineSpec, parse_shapes
from export.lint import lint
from export.lint_rules import ENGINES
from qat.artefacts import MANIFEST, hash_file, installed_versions, read_manifest
from qat.errors import BuildError
from tests.fuzzing.structure import change_json, change_onnx
from tests.fuzzing.target import SOME, in_parts, survive
from tests.test_export.encoder_graph import linear_graph
from tests.test_export.lint_graphs import in_branch, linear
from tests.test_export.test_layer_table import GEMM, WAIT, table

PLAN = b"engine"
ONE_CARD = BuildSettings(hardware=("sm_89",))
SPEC = EngineSpec(builder="rtx", shapes=parse_shapes("1x1,8x16,8x64"), hardware=("sm_89",))
ORIGIN = Origin(spec=SPEC, version="1.5", gpu=None, files={"model.onnx": "sha256:0"})
ROW = RangeRow(name="layer.3.ffn_quantizer", source="calibrated", depth=0, amax=2.0, scale=0.02)
FOLDER = {
    "stage": "export",
    "target": "rtx",
    "convolutions": [{"module": "a", "was": "b", "became": "c"}],
    "calibration": {"method": "all"},
    "finetune": {"ranges": "frozen"},
    "ranges": {"layer.3.ffn_quantizer": "x0.9"},
}
_TENSOR = {"Name": "x", "Dimensions": [-1, 64], "Datatype": "Int8"}
_LAYER: dict[str, Any] = {
    "Name": "a_myl0_1", "LayerType": "gemm", "Inputs": [_TENSOR], "Outputs": [_TENSOR], "Constants": [_TENSOR],
    "Weights": {"Type": "Int8", "Count": 4}, "Metadata": "[ONNX Layer: a/MatMul]",
}  # fmt: skip
_COUNTS = ("kernels", "int8_gemms", "float_gemms", "unplanned_gemms", "int8_attentions", "float_attentions")
_FIGURES = ("activation_mb", "layer_bytes", "layer_bytes_to_least", "weight_mb", "int8_mac_share")
_AUDIT: dict[str, Any] = {
    "status": "complete", "reason": "", "split_attentions": 0,
    **dict.fromkeys(_COUNTS, 1), **dict.fromkeys(_FIGURES, 0.5),
    "rows": [{"name": "a", "planned": True, "kind": "gemm", "dtype": "Int8", "reason": "", "nodes": ["a"]}],
}  # fmt: skip


def _tables() -> tuple[bytes, ...]:
    printed = (table(GEMM, WAIT, GEMM), table(WAIT))
    return (*(text.encode() for text in printed), json.dumps({"Layers": [_LAYER, _LAYER]}).encode())


def _take_table(data: bytes, folder: Path) -> None:
    read = read_layer_table(data.decode(errors="replace"))
    assert bool(read.layers) == (read.reason is None)
    assert split_profiles(read, 2)
    assert all((layer.activation_bytes or 0) >= 0 for layer in read.layers)


def _take_manifest(data: bytes, folder: Path) -> None:
    (folder / MANIFEST).write_bytes(data)
    assert isinstance(read_manifest(folder), dict)
    assert isinstance(read_convolutions(folder), list)
    find_methods(folder)(ROW)


@cache
def _engine_manifests() -> tuple[bytes, ...]:
    manifest = {
        "stage": "build",
        "spec": asdict(SPEC),
        "engine": {"file": "model.engine", "hash": "HASH", "bytes": len(PLAN)},
        "layer_table": None,
        "inputs": {name: {"path": name, "hash": file} for name, file in ORIGIN.files.items()},
        "versions": installed_versions(),
        "builder": {"name": SPEC.builder, "version": ORIGIN.version},
        "hardware": list(SPEC.hardware),
        "gpu": None,
        "seconds": 1.5,
        "macs": {"a": 64},
        "audit": _AUDIT,
    }
    return (json.dumps(manifest).encode(),)


def _take_engine_manifest(data: bytes, folder: Path) -> None:
    """``HASH`` stands for the hash of the engine, so that damage elsewhere is read as far as it goes."""
    path = folder / "model.engine"
    path.write_bytes(PLAN)
    manifest_of(path).write_bytes(data.replace(b"HASH", hash_file(path).encode()))
    survive(lambda: audit(path))
    survive(lambda: audit(path, settings=BuildSettings(shapes="1x1")))
    survive(lambda: read_origin(path, require_manifest(path)))
    if not explain_rebuild(path, ORIGIN):
        survive(lambda: read_built(path, ORIGIN))


@cache
def _graphs() -> tuple[bytes, ...]:
    return (linear().SerializeToString(), in_branch(linear()).SerializeToString())


def _take_linted(data: bytes, folder: Path) -> None:
    path = folder / "model.onnx"
    path.write_bytes(data)
    targets = sorted(ENGINES)
    survive(lambda: lint(path, target=targets[crc32(data) % len(targets)]))


@cache
def _small_graph() -> tuple[bytes, ...]:
    return (linear_graph((2, 4)).SerializeToString(),)


def _take_audited(data: bytes, folder: Path) -> None:
    path = folder / "model.onnx"
    path.write_bytes(data)
    (folder / MANIFEST).write_text(json.dumps({"target": ("onnxruntime", "openvino")[crc32(data) % 2]}))
    survive(audit, path)


def _stop(phase: str, share: float) -> None:
    """Ends a build whose graph was read: to compile a sound one takes seconds."""
    raise BuildError(f"{phase}: far enough")


def _take_built(data: bytes, folder: Path) -> None:
    path = folder / "model.onnx"
    path.write_bytes(data)
    (folder / MANIFEST).unlink(missing_ok=True)
    survive(lambda: build(path, folder / "model.engine", settings=ONE_CARD, progress=_stop))


TARGETS = (
    in_parts("layer-tables", _tables, _take_table, change_json),
    in_parts("manifests", lambda: [json.dumps(FOLDER).encode()], _take_manifest, change_json),
    in_parts("engine-manifests", _engine_manifests, _take_engine_manifest, change_json, quick=3),
    in_parts("linted-graphs", _graphs, _take_linted, change_onnx, inputs=SOME, quick=2),
    in_parts("audited-graphs", _small_graph, _take_audited, change_onnx, inputs=SOME, quick=1),
    in_parts("built-graphs", _small_graph, _take_built, change_onnx, inputs=SOME, quick=1),
)
"""Every target of this package."""
