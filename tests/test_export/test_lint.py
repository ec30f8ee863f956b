"""Every rule against a graph that breaks it and a twin that does not."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from export.engine_build import build_engine
from export.engine_spec import EngineSpec, ShapeRange
from export.lint import Finding, LintReport, lint
from export.lint_rules import list_rules
from qat.errors import BuildError, ExportError
from tests.test_export.encoder_graph import encoder_graph, save_graph
from tests.test_export.lint_cases import CASES, Case
from tests.test_export.lint_graphs import (
    biased,
    float_layer,
    in_branch,
    in_function,
    integer,
    linear,
    masked,
    weighted,
)

Wrap = Callable[[onnx.ModelProto], onnx.ModelProto]


def findings(folder: Path, model: onnx.ModelProto, target: str = "tensorrt") -> tuple[Finding, ...]:
    return lint(save_graph(folder, model), target=target).findings


def pretend_cpu(folder: Path, monkeypatch: pytest.MonkeyPatch, flags: str) -> None:
    """Makes this machine's CPU one with these flags."""
    (folder / "cpuinfo").write_text(f"flags: {flags}\n", encoding="utf-8")
    monkeypatch.setattr("qat.cpu.CPU_LIST", folder / "cpuinfo")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_broken_rule_is_found_at_its_node_and_says_why(
    tmp_path: Path, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_cpu(tmp_path, monkeypatch, case.flags)
    found = findings(tmp_path, case.broken(), case.target)
    first = next(each for each in found if each.rule == case.rule)

    assert {each.rule for each in found} == {case.rule, *case.beside}
    assert (first.node, first.severity) == (case.node, case.severity)
    assert case.says in first.message
    assert "; " in first.message, "what to do follows a semicolon"
    assert "\n" not in first.message


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_its_sound_twin_is_clean(tmp_path: Path, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_cpu(tmp_path, monkeypatch, case.flags)
    assert {each.rule for each in findings(tmp_path, case.sound(), case.target)} == set(case.beside)


def test_every_rule_has_a_case() -> None:
    assert {case.rule for case in CASES} == {rule.name for rule in list_rules()}


@pytest.mark.parametrize("target", ["tensorrt", "rtx"])
def test_a_good_encoder_is_clean(tmp_path: Path, target: str) -> None:
    model = encoder_graph(layers=2)

    assert lint(save_graph(tmp_path, model), target=target) == LintReport((), nodes=len(model.graph.node))


@pytest.mark.parametrize("wrap", [in_function, in_branch])
def test_nodes_of_functions_and_branches_are_looked_at(tmp_path: Path, wrap: Wrap) -> None:
    broken = [each for each in findings(tmp_path, wrap(biased(int32=True))) if each.rule == "int32-dequantize"]

    assert [each.node.partition("__")[0] for each in broken] == ["bias/DQ"]
    assert findings(tmp_path, wrap(biased(int32=False))) == ()


def test_errors_come_first_and_a_pair_is_named_once(tmp_path: Path) -> None:
    report = lint(str(save_graph(tmp_path, linear(zero=np.uint8(7), scale=np.float16(1e-5), rows=(None, 8)))))

    assert [(each.severity, each.rule, each.node) for each in report.findings] == [
        ("error", "zero-point-not-zero", "x/Q"),
        ("warning", "unnamed-axis", "x"),
        ("warning", "scale-subnormal", "x/Q"),
    ]
    assert report.nodes == 4


def test_a_mask_that_all_layers_share_is_named_once(tmp_path: Path) -> None:
    assert [each.node for each in findings(tmp_path, masked(-np.inf, layers=3))] == ["mask/Mul"]


def test_a_node_without_a_name_is_called_by_its_output(tmp_path: Path) -> None:
    model = linear(zero=np.int8(3))
    for node in model.graph.node:
        node.name = ""

    assert [each.node for each in findings(tmp_path, model)] == ["node_of_x/Q:0"]


REFUSED = {
    "a zero point that is not 0": (linear(zero=np.int8(3)), linear()),
    "a zero point of uint8 128": (linear(zero=np.uint8(128)), linear()),
    "sizes that differ": (linear(zero=np.zeros(64, np.int8)), linear()),
    "a scale of 0": (linear(scale=np.float16(0)), linear()),
    "a bias of INT32": (biased(int32=True), biased(int32=False)),
    "an integer product": (integer("MatMulInteger"), linear()),
    "two types": (weighted(stored="float32"), weighted(stored="float16")),
}


def build(path: Path) -> str:
    spec = EngineSpec(builder="rtx", shapes=ShapeRange.fixed(2, 8), hardware=("sm_89",))
    return build_engine(path, spec).layer_table or ""


@pytest.mark.parametrize("reason", REFUSED)
def test_a_builder_agrees_with_the_errors(tmp_path: Path, reason: str) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the builder of the tests: pip install 'qdq[rtx]'")
    broken, sound = REFUSED[reason]

    assert "error" in {each.severity for each in findings(tmp_path, broken, "rtx")}
    with pytest.raises(BuildError):
        build(save_graph(tmp_path, broken))
    assert findings(tmp_path, sound, "rtx") == ()
    assert build(save_graph(tmp_path, sound)).startswith("Layers:")


def list_types(table: str) -> list[str]:
    return re.findall(r"(?:Datatype|TacticName): [^,}]+", table)


def test_a_builder_takes_uint8_for_int8_without_a_word(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the builder of the tests: pip install 'qdq[rtx]'")
    signed = list_types(build(save_graph(tmp_path, linear())))

    assert any(each.startswith("Datatype: Int8") for each in signed)
    assert list_types(build(save_graph(tmp_path, linear(zero=np.uint8(0))))) == signed
    assert list_types(build(save_graph(tmp_path, linear(zero=None)))) == signed


@pytest.mark.parametrize("model", [linear(opset=18), linear(scale=np.float32(0.05))], ids=["opset", "type"])
def test_onnx_runtime_agrees_that_a_graph_is_invalid(tmp_path: Path, model: onnx.ModelProto) -> None:
    path = save_graph(tmp_path, model)

    assert "error" in {each.severity for each in lint(path, target="onnxruntime").findings}
    with pytest.raises((Fail, InvalidGraph), match="Type"):
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


class Calibration(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    def __init__(self) -> None:
        self.batches = iter([{"x": np.random.default_rng(0).normal(size=(2, 64)).astype(np.float32)}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def test_what_onnx_runtime_quantizes_itself_is_not_ready_for_tensorrt(tmp_path: Path) -> None:
    path, out = save_graph(tmp_path, float_layer()), tmp_path / "out.onnx"
    quantize_static(path, out, Calibration(), quant_format=QuantFormat.QDQ, activation_type=QuantType.QUInt8)
    static = {(each.severity, each.rule) for each in lint(out).findings}
    quantize_dynamic(path, out)
    dynamic = {(each.severity, each.rule) for each in lint(out).findings}

    assert static >= {("error", "zero-point-not-zero"), ("error", "int32-dequantize")}
    assert dynamic >= {("error", "integer-operator")}
    assert lint(out, target="onnxruntime").findings == ()


def test_a_target_without_rules_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        lint(save_graph(tmp_path, linear()), target="tensort")

    assert str(caught.value) == (
        "lint has no rules for target 'tensort': did you mean 'tensorrt'? known: onnxruntime, openvino, rtx, tensorrt"
    )
