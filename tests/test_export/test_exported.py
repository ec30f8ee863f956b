"""The exported folder: complete, the same bytes every time, and refusals that say what to do."""

import copy
import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from transformers import AutoConfig, AutoTokenizer

import qdq
from export.engine import BuildSettings, build
from export.exported import ExportedModel, Lowering, export, lower_graph, write_exported
from export.passes.half_precision import HalfPrecision
from export.passes.int8_embeddings import quantize_rows
from export.settings import ExportSettings
from export.targets import find_target, list_targets
from export.targets.base import Target, register_target
from qat.artefacts import hash_file, read_manifest
from qat.errors import CheckpointError, ExportError, OutputError
from qat.huggingface import wrap
from qat.quantizer import named_quantizers
from tests.test_export.conftest import Trace
from tests.test_export.tiny_models import (
    Case,
    Traced,
    count_apart,
    make_batch,
    make_calibrated,
    make_float,
    run_float,
    run_torch,
)
from tests.tiny import tiny_tokenizer
from tests.tolerances import FLIPPED_ROWS

CHANNELS = Case("bert", "tensorrt", "per_channel", shallow=True)


def test_a_folder_holds_all_that_is_needed_to_run_it(exported: ExportedModel, traced: Traced) -> None:
    names = {path.name for path in exported.folder.iterdir()}
    assert {"model.onnx", "config.json", "tokenizer.json", "tokenizer_config.json", "qdq.json"} <= names
    onnx.checker.check_model(exported.onnx_path, full_check=True)
    assert AutoConfig.from_pretrained(exported.folder).model_type == traced.case.family
    assert AutoTokenizer.from_pretrained(exported.folder)("ba be")["input_ids"]
    assert exported.folder.stat().st_mode & 0o777 == 0o755


def test_the_manifest_tells_what_was_made(exported: ExportedModel, traced: Traced) -> None:
    manifest = read_manifest(exported.folder)
    expected = {"stage": "export", "target": "rtx", "precision": "fp16", "quantized": True, "inputs": {}}
    assert {name: manifest[name] for name in expected} == expected
    assert manifest["inputs_of_graph"] == ["input_ids", "attention_mask"]
    assert manifest["outputs_of_graph"] == ["logits"]
    assert manifest["bytes"] == exported.onnx_path.stat().st_size
    assert manifest["recipe"] == json.loads(json.dumps(traced.model.config.quantization_config.to_dict()))["recipe"]


def test_the_public_export_writes_the_same_bytes_as_the_shared_graph(tmp_path: Path, trace: Trace) -> None:
    model = make_calibrated(CHANNELS)
    model.save_pretrained(tmp_path / "calibrated")
    model.config.name_or_path = str(tmp_path / "calibrated")
    made = qdq.export(model, tmp_path / "onnx", tokenizer=tiny_tokenizer())
    assert (made.target, made.precision, made.quantized) == ("onnxruntime", "fp32", True)
    given = trace(CHANNELS)
    target = find_target("onnxruntime")
    again = [
        write_exported(
            given.graph, given.model, tmp_path / name, lowering=Lowering(target, "fp32"), tokenizer=None
        ).onnx_path.read_bytes()
        for name in ("first", "second")
    ]
    assert again == [made.onnx_path.read_bytes()] * 2
    assert read_manifest(made.folder)["inputs"] == {
        "checkpoint": {
            "path": str(tmp_path / "calibrated"),
            "hash": hash_file(tmp_path / "calibrated" / "model.safetensors"),
        }
    }


def test_the_float_twin_is_a_folder_of_its_own(tmp_path: Path, bert: Traced) -> None:
    twin = write_exported(
        bert.graph,
        bert.model,
        tmp_path / "twin",
        lowering=Lowering(find_target("rtx"), "fp32", quantized=False),
        tokenizer=None,
    )
    batch = make_batch(3, 12)
    with qdq.load_runner(twin.folder, optimized=False) as runner:
        assert runner.precision == "fp32"
        logits = runner.infer(dict(batch))["logits"].astype(np.float32)
    assert count_apart(logits, run_float(bert.model, batch)) == 0
    assert read_manifest(twin.folder)["quantized"] is False


@pytest.mark.parametrize("target", ["rtx", "onnxruntime"])
def test_int8_embeddings_are_the_models_own_rounded_once(tmp_path: Path, bert: Traced, target: str) -> None:
    lowering = Lowering(find_target(target), "fp32", settings=ExportSettings(embeddings="int8"))
    made = write_exported(bert.graph, bert.model, tmp_path / "onnx", lowering=lowering, tokenizer=None)
    assert read_manifest(made.folder)["settings"] == ExportSettings(embeddings="int8").model_dump(mode="json")
    rounded = copy.deepcopy(bert.model)
    for name in ("word_embeddings", "position_embeddings"):
        weight = rounded.get_parameter(f"bert.embeddings.{name}.weight")
        levels, scales = quantize_rows(weight.detach().numpy())
        weight.data = torch.from_numpy(levels * scales)
    batch = make_batch(8, 24)
    with qdq.load_runner(made.folder, optimized=False) as runner:
        logits = runner.infer(dict(batch))["logits"].astype(np.float32)
    assert count_apart(logits, run_torch(rounded, batch)) <= FLIPPED_ROWS.value
    assert count_apart(logits, run_torch(bert.model, batch)) > FLIPPED_ROWS.value


def test_int8_embeddings_are_built_and_audited_like_float_ones(tmp_path: Path, bert: Traced) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the builder of the tests: pip install 'qdq[rtx]'")
    engines = []
    for embeddings in ("float", "int8"):
        lowering = Lowering(find_target("rtx"), "fp16", settings=ExportSettings(embeddings=embeddings))
        made = write_exported(bert.graph, bert.model, tmp_path / embeddings, lowering=lowering, tokenizer=None)
        engines.append(build(made.folder, tmp_path / f"{embeddings}.engine", settings=BuildSettings(shapes="8x32")))
    plain, small = engines
    assert (small.audit.kernels, small.audit.activation_mb) == (plain.audit.kernels, plain.audit.activation_mb)
    assert small.audit.int8_gemms == plain.audit.int8_gemms
    assert plain.audit.weight_mb is not None
    assert small.audit.weight_mb is not None
    table = len(tiny_tokenizer()) * 64
    assert small.audit.weight_mb < plain.audit.weight_mb - 0.9 * table / 1e6
    assert small.built.layer_table is not None
    assert f"Dimensions: [{len(tiny_tokenizer())},64], Strides: [64,1], StrideOrder: [1,0], Datatype: Int8" in (
        small.built.layer_table
    )


def test_the_float_twin_keeps_its_embeddings(bert: Traced) -> None:
    settings = ExportSettings(embeddings="int8")
    twin = lower_graph(bert.graph, Lowering(find_target("rtx"), "fp16", quantized=False, settings=settings))
    assert not any(value.dtype == ir.DataType.INT8 for value in twin.graph.initializers.values())


def test_an_existing_folder_is_replaced_as_a_whole(tmp_path: Path, bert: Traced) -> None:
    out = tmp_path / "onnx"
    out.mkdir()
    (out / "stale.txt").write_text("old")
    write_exported(bert.graph, bert.model, out, lowering=Lowering(find_target("rtx"), "fp16"), tokenizer=None)
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.onnx", "qdq.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["onnx"]


def test_a_model_without_ranges_is_refused_with_its_quantizers(tmp_path: Path) -> None:
    model = make_float("bert", 1)
    wrap(model)
    with pytest.raises(ExportError) as caught:
        export(model, tmp_path / "onnx")
    layer = "bert.encoder.layer.0.attention"
    assert str(caught.value) == (
        f"the model is not calibrated: 8 quantizers have no range ({layer}.self.query_quantizer, "
        f"{layer}.self.key_quantizer, {layer}.self.value_quantizer, ...); run qdq calibrate first"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_range_lost_after_calibration_is_noticed(tmp_path: Path) -> None:
    model = make_calibrated(CHANNELS)
    lost = dict(named_quantizers(model))["bert.encoder.layer.0.ffn_quantizer"]
    lost.clear_range()
    with pytest.raises(
        ExportError, match=r"1 quantizers have no range \(bert\.encoder\.layer\.0\.ffn_quantizer, \.\.\.\)"
    ):
        export(model, tmp_path / "onnx")


def test_a_float_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        export(make_float("bert", 1), tmp_path / "onnx")
    assert str(caught.value) == ("the model is not quantized: qdq.wrap it, or load a folder that qdq calibrate wrote")


def test_another_granularity_names_the_command_that_makes_the_right_one(tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        export(make_calibrated(CHANNELS), tmp_path / "onnx", target="rtx")
    assert str(caught.value) == (
        "the checkpoint has per-channel weights, target 'rtx' in fp16 needs per-tensor: calibrate again with "
        "qdq calibrate CHECKPOINT --target rtx --task ... --data ... --out ..."
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("target", "precision", "said"),
    [
        ("rtxx", None, "target 'rtxx' is unknown: did you mean 'rtx'? known: onnxruntime, openvino, rtx, tensorrt"),
        ("rtx", "fp61", "precision 'fp61' is not one of target 'rtx': did you mean 'fp16'? known: bf16, fp16, fp32"),
        ("onnxruntime", "fp16", "precision 'fp16' is not one of target 'onnxruntime': known: fp32"),
    ],
)
def test_unknown_names_come_with_the_nearest(
    tmp_path: Path, bert: Traced, target: str, precision: str | None, said: str
) -> None:
    with pytest.raises(ExportError) as caught:
        export(bert.model, tmp_path / "onnx", target=target, precision=precision)
    assert str(caught.value) == said


def test_a_pass_that_finds_the_graph_wrong_is_named_with_its_target(bert: Traced) -> None:
    hasty = Target(
        name="hasty",
        passes={"fp16": lambda: (HalfPrecision(),)},
        weights={"fp16": ("per_tensor",)},
        default_precision="fp16",
    )
    with pytest.raises(ExportError, match=r"^target 'hasty', pass HalfPrecision: 'val_\w+' holds 3\.403e\+38, beyond"):
        lower_graph(bert.graph, Lowering(hasty, "fp16"))


def test_a_target_is_registered_once() -> None:
    with pytest.raises(ValueError, match=r"^target 'rtx' is registered twice$"):
        register_target(find_target("rtx"))
    assert {"onnxruntime", "rtx"} <= set(list_targets())


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, bert: Traced) -> None:
    (tmp_path / "file").write_text("kept")
    target = find_target("rtx")
    with pytest.raises(OutputError, match=r"^cannot write the folder .*file: a file of that name exists; choose anoth"):
        write_exported(bert.graph, bert.model, tmp_path / "file", lowering=Lowering(target, "fp16"), tokenizer=None)
    out = tmp_path / "file" / "onnx"
    with pytest.raises(OutputError, match=r"^cannot write .*file/onnx: \w.*; choose another --out$"):
        write_exported(bert.graph, bert.model, out, lowering=Lowering(target, "fp16"), tokenizer=None)
    assert (tmp_path / "file").read_text() == "kept"
