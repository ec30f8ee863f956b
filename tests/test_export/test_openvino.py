"""The OpenVINO lowering, executed by OpenVINO: the numbers of the fake-quantized model, every planned product INT8."""

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from export.audit.openvino_audit import OpenVinoAudit, audit_openvino
from export.engine import audit
from export.exported import ExportedModel, Lowering, lower_graph, write_exported
from export.passes.unsigned_activations import UnsignedActivations
from export.runners.load import load_runner
from export.runners.openvino_runner import OpenVinoRunner
from export.targets import find_target
from qat.errors import BuildError, CheckpointError, ExportError
from tests.test_export.conftest import Trace
from tests.test_export.encoder_graph import encoder_graph, save_graph
from tests.test_export.test_runners import infer
from tests.test_export.tiny_models import SHAPES, Case, Traced, count_apart, make_batch, run_float, run_torch
from tests.this_cpu import EXACT_BITS, HAS_AVX512
from tests.tolerances import FLIPPED_ROWS, HALF_TO_INT8

FULL = Case("bert", "tensorrt", "per_channel", shallow=True, bits=EXACT_BITS)
CASES = (
    FULL,
    Case("albert", "linear", "per_channel", shallow=True, bits=EXACT_BITS),
    Case("convbert", "tensorrt", "per_channel", shallow=True, bits=EXACT_BITS),
    Case("squeezebert", "tensorrt", "per_channel", shallow=True, bits=EXACT_BITS),
)
FLOAT_PRODUCTS = 0 if HAS_AVX512 else 1
"""Of an attention with both operands in INT8, those OpenVINO computes in float on this CPU."""
PLANNED = {"bert": 6, "albert": 12, "convbert": 11, "squeezebert": 21}
"""Linears, or groups of them, of the shallow models; the products of attention come on top where they are planned."""


def write_case(traced: Traced, folder: Path, *, quantized: bool = True) -> ExportedModel:
    lowering = Lowering(find_target("openvino"), "fp32", quantized=quantized)
    return write_exported(traced.graph, traced.model, folder, lowering=lowering, tokenizer=None)


def lower_case(traced: Traced, folder: Path) -> tuple[ir.Model, Path]:
    return lower_graph(traced.graph, Lowering(find_target("openvino"), "fp32")), folder / "model.onnx"


def reasons(found: OpenVinoAudit) -> dict[str, str]:
    return {row.name: row.reason for row in found.rows if row.reason and row.planned}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_openvino_computes_the_fake_quantized_model_in_int8(case: Case, trace: Trace, tmp_path: Path) -> None:
    traced = trace(case)
    folder = write_case(traced, tmp_path / "onnx").folder
    runner = load_runner(folder, optimized=False, threads=1)
    assert (runner.name, runner.precision, set(runner.inputs.values())) == (
        "openvino", "int8+fp32", {("batch", "sequence")},
    )  # fmt: skip
    batches = [make_batch(*shape, seed=5) for shape in SHAPES]
    apart = [count_apart(infer(runner, each), run_torch(traced.model, each)) for each in batches]
    assert sum(apart) <= FLIPPED_ROWS.value
    found = audit(folder)
    assert isinstance(found, OpenVinoAudit)
    attentions = case.layers if case.recipe == "tensorrt" else 0
    lost = FLOAT_PRODUCTS * attentions
    assert (found.int8_gemms, found.float_gemms) == (PLANNED[case.family] + 2 * attentions - lost, lost)
    assert found.int8_attentions == attentions - lost


def test_what_is_not_planned_is_named_and_the_facts_add_up(trace: Trace, tmp_path: Path) -> None:
    found = audit_openvino(write_case(trace(FULL), tmp_path / "onnx").onnx_path)
    assert len(reasons(found)) == FLOAT_PRODUCTS
    assert {row.name: row.reason for row in found.rows if row.reason and not row.planned} == {
        "bert.pooler.dense/Gemm": "not planned: no DequantizeLinear feeds it",
        "classifier/Gemm": "not planned: no DequantizeLinear feeds it",
    }
    assert found.unplanned_gemms == 2
    assert found.kernels == sum(found.operations.values())
    assert 0 < found.conversions < found.kernels
    assert found.operations["FullyConnected i8"] == PLANNED["bert"]
    assert found.rest in ("f32", "bf16")
    assert found.version.startswith("20")


def test_the_float_twin_has_nothing_planned_and_more_float_between_its_kernels(trace: Trace, tmp_path: Path) -> None:
    traced = trace(FULL)
    twin = write_case(traced, tmp_path / "float", quantized=False)
    found = audit_openvino(twin.onnx_path)
    assert (found.int8_gemms, found.float_gemms, found.unplanned_gemms) == (0, 0, 10)
    assert (
        found.float_intermediates > audit_openvino(write_case(traced, tmp_path / "onnx").onnx_path).float_intermediates
    )
    runner, batch = load_runner(twin.folder, optimized=False), make_batch(3, 10)
    assert runner.precision == "fp32"
    assert count_apart(infer(runner, batch), run_float(traced.model, batch)) == 0


def test_shifted_activations_lose_the_attention_and_the_audit_says_why(trace: Trace, tmp_path: Path) -> None:
    graph, path = lower_case(trace(FULL), tmp_path)
    UnsignedActivations()(graph)
    ir.save(graph, path)
    found = audit_openvino(path)
    assert (found.int8_gemms, found.float_gemms, found.int8_attentions) == (6, 2, 0)
    assert list(reasons(found)) == [f"bert.encoder.layer.0.attention.self/{name}" for name in ("MatMul", "MatMul_1")]
    for reason in reasons(found).values():
        assert "is UINT8, an attention is INT8 with signed operands only; export with --target openvino" in reason


def test_a_half_quantized_attention_names_the_float_operand(tmp_path: Path) -> None:
    found = audit_openvino(save_graph(tmp_path, encoder_graph(layers=1, quantized="qkv")))
    assert reasons(found)["encoder/0/context"].startswith("one operand only is quantized: 'encoder/0/")


def test_a_cpu_without_kernels_for_an_int8_attention_is_the_reason(
    trace: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_case(trace(FULL), tmp_path / "onnx").onnx_path
    (tmp_path / "cpuinfo").write_text("flags: avx2\n", encoding="utf-8")
    monkeypatch.setattr("qat.cpu.CPU_LIST", tmp_path / "cpuinfo")
    said = [reason.partition(": ")[2] for reason in reasons(audit_openvino(path)).values()]
    assert said == ["OpenVINO's INT8 attention needs AVX-512, which this CPU does not have"] * FLOAT_PRODUCTS


def test_the_rest_may_run_in_another_type_and_is_named(trace: Trace, tmp_path: Path) -> None:
    traced, batch = trace(FULL), make_batch(6, 10)
    path = write_case(traced, tmp_path / "onnx").onnx_path
    fake, plain = run_torch(traced.model, batch), run_float(traced.model, batch)
    runner = OpenVinoRunner(path, rest="bf16", streams=2, threads=2)
    assert runner.precision == ("int8+bf16" if HAS_AVX512 else "int8+fp32")
    lost = np.square(infer(runner, batch) - fake).mean()
    assert 0 < np.sqrt(lost) <= HALF_TO_INT8.value * np.sqrt(np.square(plain - fake).mean())


def test_without_the_package_the_extra_is_named(trace: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_case(trace(FULL), tmp_path / "onnx").folder
    monkeypatch.setitem(sys.modules, "openvino", None)
    for use in (load_runner, audit):
        with pytest.raises(BuildError) as caught:
            use(folder)
        assert str(caught.value) == (
            "running on OpenVINO needs the package openvino, which cannot be imported (import of openvino halted; "
            "None in sys.modules); install it: pip install 'qdq[openvino]'"
        )


def test_a_file_that_openvino_cannot_run_is_named_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(CheckpointError) as caught:
        OpenVinoRunner(path)
    assert str(caught.value) == f"no ONNX file at {path}: give a file, or a folder that qdq export wrote"
    model = encoder_graph(layers=1)
    model.graph.node[-1].op_type = "Unheard"
    save_graph(tmp_path, model)
    with pytest.raises(CheckpointError, match=r"^OpenVINO cannot load .*model\.onnx: .*Unheard.*; export it again$"):
        OpenVinoRunner(path)
    with pytest.raises(BuildError, match=r"^OpenVINO refuses .*: .*Unheard.*; export with --target openvino$"):
        audit_openvino(path)
    path.write_bytes(b"not a graph")
    with pytest.raises(CheckpointError, match=r"^OpenVINO cannot load .*model\.onnx: .*; export it again$"):
        OpenVinoRunner(path)
    with pytest.raises(ExportError, match=r"model\.onnx cannot be read as ONNX"):
        audit_openvino(path)
