"""Weights of 7 bits: no pair of their products with unsigned activations leaves 16 bits, in torch, file and engine."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification

import qdq
from calibration.commands import read_recipe
from export.audit.onnxruntime_audit import audit_onnxruntime
from export.exported import Lowering, lower_graph, trace_model
from export.passes.fold_weights import quantize_weight
from export.passes.qdq_nodes import DEQUANTIZE, constant, nodes_of, operand
from export.targets import find_target
from qat.errors import RecipeError
from qat.layers import QuantizedLayer
from qat.quantizer import FakeQuantizer
from qat.recipe import Recipe
from qat.spec import QuantSpec
from tests.test_export.tiny_models import (
    Batch,
    count_apart,
    make_batch,
    make_float,
    run_graph,
    run_torch,
    to_tensors,
)
from tests.tolerances import FLIPPED_ROWS

BYTES = st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), min_size=1, max_size=8)
FLOATS = st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=16)


def add_pairs(activations: NDArray[np.uint8], weights: NDArray[np.int8]) -> tuple[int, int]:
    """The product of two vectors as ``vpmaddubsw`` adds it, neighbours first and in 16 bits, and the true one."""
    products = activations.astype(np.int64) * weights.astype(np.int64)
    pairs = products.reshape(-1, 2).sum(axis=1)
    return int(pairs.clip(-(2**15), 2**15 - 1).sum()), int(products.sum())


def quantize(values: list[float], bits: int) -> NDArray[np.int8]:
    """The levels of a weight as the layer computes them, by NumPy alone."""
    weight = np.array(values, np.float32)
    wider = np.abs(weight).max() * np.float32(127 / (2 ** (bits - 1) - 1))
    scale = np.maximum(wider / np.float32(127), np.float32(2.0**-14)).astype(np.float16).astype(np.float32)
    levels: NDArray[np.int8] = np.rint(weight / scale).clip(-128, 127).astype(np.int8)
    return levels


@given(FLOATS, st.data())
def test_seven_bits_never_saturate(values: list[float], data: st.DataObject) -> None:
    levels = quantize(values[: len(values) // 2 * 2], 7)
    bytes_ = data.draw(st.lists(st.integers(0, 255), min_size=len(levels), max_size=len(levels)))
    assert np.abs(levels.astype(int)).max() <= 63
    seen, true = add_pairs(np.array(bytes_, np.uint8), levels)
    assert seen == true


def test_eight_bits_do() -> None:
    levels = quantize([1.0, 1.0], 8)
    assert levels.tolist() == [127, 127]
    assert add_pairs(np.array([255, 255], np.uint8), levels) == (32767, 64770)
    assert add_pairs(np.array([255, 255], np.uint8), quantize([1.0, 1.0], 7)) == (32130, 32130)


@pytest.mark.parametrize("bits", [7, 8])
@given(values=FLOATS)
def test_a_layer_quantizes_as_the_oracle_does(bits: int, values: list[float]) -> None:
    layer = QuantLayer(values, bits)
    levels = quantize(values, bits)
    scale = layer.scale()
    assert np.array_equal(np.rint(layer.quantized_weight().detach().numpy().reshape(-1) / scale), levels)
    assert np.array_equal(quantize_weight(layer.weight.detach().numpy(), scale, 0).reshape(-1), levels)


class QuantLayer(QuantizedLayer):
    """A weight of one row with a quantizer of so many bits."""

    def __init__(self, values: list[float], bits: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([values], dtype=torch.float32))
        spec = QuantSpec(range_source="weight", bits=7 if bits == 7 else 8)
        self.weight_quantizer = FakeQuantizer(spec, ranges=1, name="weight")
        self.partners = ()
        self.refresh_weight_range()

    def scale(self) -> NDArray[np.float32]:
        assert isinstance(self.weight_quantizer, FakeQuantizer)
        scale: NDArray[np.float32] = self.weight_quantizer.scale().numpy()
        return scale


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT calibrated with weights of 7 bits and saved."""
    model, out = make_float("bert", 1), tmp_path_factory.mktemp("seven") / "calibrated"
    recipe = Recipe.load("tensorrt").for_target("onnxruntime").model_copy(update={"weight_bits": 7})
    qdq.wrap(model, recipe, target="onnxruntime")
    qdq.calibrate(model, [to_tensors(make_batch(8, 24, seed=seed)) for seed in range(2)])
    model.save_pretrained(out)
    return out


def test_the_bits_belong_to_the_checkpoint_and_the_graph_holds_no_more(folder: Path, tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert model.config.quantization_config.recipe.weight_bits == 7
    graph = lower_graph(trace_model(model), Lowering(find_target("onnxruntime"), "fp32"))
    levels = list(list_levels(graph))
    assert len(levels) == 6
    assert {int(np.abs(each.astype(int)).max()) for each in levels} == {63}
    batches: list[Batch] = [make_batch(5, 16), make_batch(1, 7)]
    assert sum(count_apart(run_graph(graph, each), run_torch(model, each)) for each in batches) <= FLIPPED_ROWS.value
    ir.save(graph, tmp_path / "model.onnx")
    found = audit_onnxruntime(tmp_path / "model.onnx")
    assert (found.int8_gemms, found.float_gemms) == (8, 0)


def list_levels(graph: ir.Model) -> Iterator[NDArray[np.generic]]:
    for node in nodes_of(graph, DEQUANTIZE):
        array = constant(operand(node, 0))
        if array is not None:
            yield array


def test_the_command_s_setting_reaches_the_recipe_and_another_number_is_refused() -> None:
    assert read_recipe("linear", "openvino", {"weight_bits": 7}).weight_bits == 7
    with pytest.raises(RecipeError, match=r"^recipe 'linear': weight_bits: Input should be 7 or 8 \(6 given\)$"):
        read_recipe("linear", "openvino", {"weight_bits": 6})


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_a_cpu_that_saturates_is_named_with_the_setting(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cpuinfo").write_text("flags: avx2 avx512f\n", encoding="utf-8")
    monkeypatch.setattr("qat.cpu.CPU_LIST", tmp_path / "cpuinfo")
    read_recipe("linear", target, {})
    assert capsys.readouterr().err == (
        f"this CPU has AVX2 without VNNI: with weights of 8 bits target '{target}' can saturate on it, and answers "
        "differ from those of other machines; add --set weights.bits=7 if it is to run on CPUs like this one\n"
    )
    read_recipe("linear", target, {"weight_bits": 7})
    read_recipe("linear", "rtx", {})
    read_recipe("tensorrt", "onnxruntime", {"weight_bits": 7})
    assert capsys.readouterr().err == ""


def test_an_attention_that_saturates_on_openvino_is_named_with_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cpuinfo").write_text("flags: avx2\n", encoding="utf-8")
    monkeypatch.setattr("qat.cpu.CPU_LIST", tmp_path / "cpuinfo")
    read_recipe("tensorrt", "openvino", {"weight_bits": 7})
    assert capsys.readouterr().err == (
        "this CPU has AVX2 without VNNI: OpenVINO cuts off sums of INT8 attentions on it, whatever the weights; "
        "add --recipe linear if it is to run on CPUs like this one\n"
    )
