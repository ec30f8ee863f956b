"""compare_layers: every quantized tensor at most one step apart and only at ties; a changed scale is found out."""

import copy
from pathlib import Path

import onnx_ir as ir
import pytest
import torch

from export.exported import Lowering, lower_graph
from export.layer_compare import TensorAgreement, compare_layers
from export.targets import find_target
from export.targets.base import Precision
from qat.errors import ExportError
from qat.quantizer import named_quantizers
from tests.test_export.conftest import Trace
from tests.test_export.tiny_models import Case, FamilyName, Traced, make_batch, run_torch
from tests.tolerances import TIE, TIE_FP16

BATCH = make_batch(6, 33, seed=4)


def save(traced: Traced, folder: Path, target: str = "rtx", precision: Precision = "fp32") -> Path:
    path = folder / "model.onnx"
    ir.save(lower_graph(traced.graph, Lowering(find_target(target), precision)), path)
    return path


def expected_names(traced: Traced) -> list[str]:
    return sorted(
        name + (f" (depth {depth})" if len(quantizer.amax) > 1 else "")
        for name, quantizer in named_quantizers(traced.model)
        if quantizer.spec.range_source != "weight"
        for depth in range(len(quantizer.amax))
    )


@pytest.mark.parametrize(("target", "precision"), [("rtx", "fp32"), ("onnxruntime", "fp32"), ("rtx", "fp16")])
def test_every_tensor_is_at_most_one_step_off_and_only_at_ties(
    traced: Traced, tmp_path: Path, target: str, precision: Precision
) -> None:
    found = compare_layers(traced.model, save(traced, tmp_path, target, precision), BATCH)
    assert sorted(each.name for each in found) == expected_names(traced)
    assert len(found) == (11 if traced.case.family == "convbert" else 9) * traced.case.layers
    assert all(each.values % 6 == 0 for each in found)
    whole = [each for each in found if each.values % 33 == 0]
    assert len(found) - len(whole) <= 7  # the last layer's, where the graph computes the first token only
    assert max(each.largest_step for each in found) <= 1
    allowed = {"fp32": TIE, "fp16": TIE_FP16}[precision].value
    assert max(each.tie_distance for each in found) <= allowed


@pytest.mark.parametrize("family", ["bert", "squeezebert"])
@pytest.mark.parametrize("target", ["rtx", "onnxruntime"])
def test_products_before_residuals_are_compared_as_well(
    family: FamilyName, target: str, trace: Trace, tmp_path: Path
) -> None:
    traced = trace(Case(family, "lean", "per_tensor", shallow=True))
    found = compare_layers(traced.model, save(traced, tmp_path, target), BATCH)
    assert sorted(each.name for each in found) == expected_names(traced)
    assert len(found) == 11
    assert max(each.largest_step for each in found) <= 1
    assert max(each.tie_distance for each in found) <= TIE.value


def test_quantizers_that_the_exporter_joined_are_compared_once(trace: Trace, tmp_path: Path) -> None:
    traced = trace(Case("bert", "qdqbert", "per_tensor", shallow=True))
    found = compare_layers(traced.model, save(traced, tmp_path), BATCH)
    layer = "bert.encoder.layer.0"
    joined = {f"{layer}.attention.self.{part}.input_quantizer" for part in ("key", "value")}
    joined |= {f"{layer}.attention.output.residual_quantizer", f"{layer}.output.residual_quantizer"}
    assert {each.name for each in found} == set(expected_names(traced)) - joined
    assert max(each.largest_step for each in found) <= 1
    assert max(each.tie_distance for each in found) <= TIE.value


def test_a_changed_scale_is_found_at_its_tensor(traced: Traced, tmp_path: Path) -> None:
    path, broken = save(traced, tmp_path), copy.deepcopy(traced.model)
    name, quantizer = next(each for each in named_quantizers(broken) if each[1].spec.range_source == "calibrated")
    quantizer.set_range(quantizer.amax * 1.1)
    found = {each.name: is_wrong(each) for each in compare_layers(broken, path, BATCH)}
    wrong = [each for each in found if each.startswith(name)]
    assert len(wrong) == len(quantizer.amax)
    assert all(found[each] for each in wrong)
    first = next(iter(found))
    assert "hidden_quantizer" in first
    assert not found[first]


def is_wrong(found: TensorAgreement) -> bool:
    return found.largest_step > 1 or found.tie_distance > TIE.value


def test_a_changed_weight_is_found_at_the_next_tensor(bert: Traced, tmp_path: Path) -> None:
    path, broken = save(bert, tmp_path), copy.deepcopy(bert.model)
    dense = broken.get_submodule("bert.encoder.layer.1.intermediate.dense")
    with torch.no_grad():
        dense.get_parameter("weight").mul_(0.97)
    found = [each.name for each in compare_layers(broken, path, BATCH) if is_wrong(each)]
    assert found == ["bert.encoder.layer.1.intermediate.dense.product_quantizer"]


def test_the_model_is_as_it_was_afterwards(bert: Traced, tmp_path: Path) -> None:
    before = run_torch(bert.model, BATCH)
    compare_layers(bert.model, save(bert, tmp_path), BATCH)
    assert (run_torch(bert.model, BATCH) == before).all()
    assert not any(quantizer._forward_hooks for _, quantizer in named_quantizers(bert.model))


def test_the_export_of_another_model_is_refused(bert: Traced, albert: Traced, tmp_path: Path) -> None:
    path = save(albert, tmp_path)
    with pytest.raises(ExportError) as caught:
        compare_layers(bert.model, path, BATCH)
    assert str(caught.value) == (f"{path} holds none of the model's quantizers: compare a model with its own export")
