"""Real engines of the tiny BERT and ALBERT: everything planned is INT8, attention is fused, and the manifest tells."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from export.audit.engine_audit import EngineAudit, unavailable_audit
from export.audit.runtime_audit import RuntimeAudit
from export.engine import RTX_HARDWARE, BuildSettings, Engine, audit, build, find_graph
from export.exported import ExportedModel, Lowering, write_exported
from export.targets import find_target
from qat.artefacts import hash_file
from qat.errors import BuildError, CheckpointError, ExportError, RecipeError
from qat.recipe import validate_settings
from tests.test_export.tiny_models import Traced

pytest.importorskip("tensorrt_rtx", reason="the builder of the tests: pip install 'qdq[rtx]'")


GEMMS = {"bert": 4, "albert": 4, "convbert": 6, "squeezebert": 4}
"""How many INT8 GEMMs an engine runs for a layer; projections that share their input are one."""


def test_all_planned_gemms_and_attentions_are_int8(engine: Engine, traced: Traced) -> None:
    found, layers = engine.audit, traced.case.layers
    assert (found.status, found.reason) == ("complete", "")
    assert (found.int8_gemms, found.float_gemms) == (GEMMS[traced.case.family] * layers, 0)
    assert (found.int8_attentions, found.float_attentions, found.split_attentions) == (layers, 0, 0)
    assert found.int8_mac_share == 1.0
    assert found.as_planned
    outside = {
        "bert": {"bert.pooler.dense", "classifier"},
        "albert": {"albert.encoder.embedding_hidden_mapping_in", "albert.pooler", "classifier"},
        "convbert": {"convbert.embeddings_project", "classifier.dense", "classifier.out_proj"},
        "squeezebert": {"transformer.pooler.dense", "classifier"},
    }
    unplanned = [node.split("/")[0] for row in found.rows if not row.planned for node in row.nodes]
    assert found.unplanned_gemms == len(unplanned)
    assert set(unplanned) == outside[traced.case.family]


def test_an_engine_stands_beside_its_manifest_and_its_layer_table(engine: Engine, exported: ExportedModel) -> None:
    beside = {path.name for path in engine.path.parent.iterdir() if path.is_file()}
    assert beside == {"model.engine", "model.engine.json", "model.engine.layers"}
    manifest = json.loads((engine.path.parent / "model.engine.json").read_text())
    assert manifest["hardware"] == list(RTX_HARDWARE) == list(engine.built.hardware)
    assert manifest["engine"]["hash"] == hash_file(engine.path)
    assert manifest["inputs"]["model.onnx"]["hash"] == hash_file(exported.onnx_path)
    assert manifest["spec"]["shapes"] == {"batch": [1, 8, 16], "sequence": [1, 32, 64]}
    assert manifest["audit"]["int8_gemms"] == engine.audit.int8_gemms
    assert (engine.path.parent / "model.engine.layers").read_text() == engine.built.layer_table


def test_the_audit_of_an_engine_is_the_one_of_its_manifest(engine: Engine) -> None:
    found = audit(engine.path)
    assert isinstance(found, EngineAudit)
    assert asdict(found) == asdict(engine.audit)
    assert found.as_planned


def copy_engine(engine: Engine, folder: Path) -> Path:
    for path in engine.path.parent.glob("model.engine*"):
        shutil.copy(path, folder)
    return folder / "model.engine"


def test_a_swapped_engine_has_no_audit(engine: Engine, tmp_path: Path) -> None:
    copied = copy_engine(engine, tmp_path)
    copied.write_bytes(engine.path.read_bytes() + b"\0")
    found = audit(copied)
    assert found == unavailable_audit("model.engine.json belongs to another engine")
    assert isinstance(found, EngineAudit)
    assert found.reason == "audit unavailable: model.engine.json belongs to another engine"
    assert not found.as_planned


def test_an_engine_without_its_manifest_has_no_audit(engine: Engine, tmp_path: Path) -> None:
    copied = copy_engine(engine, tmp_path)
    (tmp_path / "model.engine.json").unlink()
    assert audit(copied) == unavailable_audit("no manifest model.engine.json beside the engine")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"engine": {"hash": "x"}}', '{"engine": 1, "audit": {}}'])
def test_a_manifest_that_says_nothing_is_no_audit(engine: Engine, tmp_path: Path, content: str) -> None:
    copied = copy_engine(engine, tmp_path)
    (tmp_path / "model.engine.json").write_text(content)
    expected = "model.engine.json holds no audit that can be read; build the engine again"
    assert audit(copied) == unavailable_audit(expected)


def test_a_folder_is_audited_by_building_it(bert: Traced, tmp_path: Path) -> None:
    made = write_exported(
        bert.graph, bert.model, tmp_path / "onnx", lowering=Lowering(find_target("rtx"), "fp32"), tokenizer=None
    )
    found = audit(made.folder, settings=BuildSettings(hardware=("sm_89",)))
    assert isinstance(found, EngineAudit)
    assert (found.int8_gemms, found.float_gemms) == (4 * bert.case.layers, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["onnx"]


def test_a_folder_for_onnxruntime_is_audited_there_and_builds_no_engine(bert: Traced, tmp_path: Path) -> None:
    made = write_exported(
        bert.graph, bert.model, tmp_path / "onnx", lowering=Lowering(find_target("onnxruntime"), "fp32"), tokenizer=None
    )
    found = audit(made.folder)
    assert isinstance(found, RuntimeAudit)
    assert (found.int8_gemms, found.float_gemms) == (8 * bert.case.layers, 0)
    with pytest.raises(ExportError) as caught:
        build(made.folder, tmp_path / "model.engine")
    assert str(caught.value) == (
        f"{made.folder} was exported for 'onnxruntime', which builds no engine: "
        "export again with --target rtx or tensorrt"
    )


def test_what_is_no_artefact_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        audit(tmp_path / "no.engine")
    assert str(caught.value) == f"no engine at {tmp_path}/no.engine: give an engine that qdq build wrote"
    with pytest.raises(CheckpointError) as caught:
        find_graph(tmp_path)
    assert str(caught.value) == (f"no ONNX graph at {tmp_path}: give an ONNX file, or a folder that qdq export wrote")


def test_settings_are_checked_and_hardware_has_a_default() -> None:
    assert BuildSettings().spec_for("rtx").hardware == ("sm_86", "sm_89", "sm_120")
    assert BuildSettings().spec_for("tensorrt").hardware == ()
    assert BuildSettings(hardware=()).spec_for("rtx").hardware == ()
    with pytest.raises(RecipeError, match=r"^build settings: unknown key 'shape', did you mean 'shapes'\? known: hard"):
        validate_settings(BuildSettings, {"shape": "1x1"}, where="build settings")
    with pytest.raises(BuildError) as caught:
        BuildSettings(shapes="1x65").spec_for("rtx", longest=64)
    assert str(caught.value) == (
        "shapes 1x65 go up to 65 tokens, but the model takes 64: use --shapes with sequences up to 64"
    )
    assert BuildSettings().spec_for("rtx", longest=48).shapes.sequence == (1, 48, 48)
    with pytest.raises(BuildError, match=r"^--shapes entry '1-1' is no shape; expected one to three BATCHxSEQUENCE"):
        BuildSettings(shapes="1-1")
