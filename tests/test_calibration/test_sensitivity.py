"""Sensitivity: the groups cover every quantizer once, a broken group is found, and leaving it out mends the model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from calibration.sensitivity import (
    answer_error,
    choose_float_groups,
    float_quantizers,
    keep_float,
    leave_out,
    list_groups,
    measure_sensitivity,
)
from qat.errors import CheckpointError
from qat.huggingface import quantization_config, wrap
from qat.quantizer import disable_quantizers, named_quantizers
from qat.scoring import Accuracy, infer_with, score_rows
from tests.calibrated import TASK, encode_tiny, make_calibrated
from tests.test_qat.wrapped import FAMILIES, FamilyName, make_float

ROWS = encode_tiny(24, seed=3)
BROKEN = "bert.encoder.layer.1.output.dense"


def score(model: PreTrainedModel) -> Accuracy:
    return score_rows(infer_with(model), ROWS, TASK, pad_token_id=0)


def float_answers_as_labels(model: PreTrainedModel) -> Accuracy:
    """Scores against what the float model answers, so that its own metric is 1.

    A model with random weights answers one class to everything: what counts here is each row beside the mean row.
    """
    found = score(model)
    with disable_quantizers(model):
        reference = score(model).outputs["logits"]
    mean = reference.mean(axis=0)
    same = (found.outputs["logits"] - mean).argmax(axis=-1) == (reference - mean).argmax(axis=-1)
    return replace(found, metrics={"accuracy": float(same.mean())})


def broken_bert() -> PreTrainedModel:
    """A calibrated model in which one group's range is a thousandth of what it should be."""
    model = make_calibrated(make_float("bert"))
    quantizer = dict(named_quantizers(model))[f"{BROKEN}.input_quantizer"]
    quantizer.set_range(quantizer.amax / 1000)
    return model


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("recipe", ["tensorrt", "qdqbert", "linear", "lean"])
def test_the_groups_hold_every_quantizer_once(family: FamilyName, recipe: str) -> None:
    model = make_float(family)
    wrap(model, recipe)
    groups = list_groups(model)
    held = [name for group in groups for name in group.quantizers]
    assert sorted(held) == sorted(name for name, _ in named_quantizers(model))
    assert len({group.name for group in groups}) == len(groups)


def test_a_bert_layer_has_six_groups() -> None:
    model = make_float("bert")
    wrap(model)
    first = [group.name for group in list_groups(model) if ".layer.0." in group.name]
    assert first == [
        "bert.encoder.layer.0.attention.self",
        "bert.encoder.layer.0.intermediate.dense (preactivation)",
        "bert.encoder.layer.0.attention.self.query",
        "bert.encoder.layer.0.attention.output.dense",
        "bert.encoder.layer.0.intermediate.dense",
        "bert.encoder.layer.0.output.dense",
    ]


def test_a_float_weight_has_no_int8_product() -> None:
    model = make_float("bert")
    wrap(model, "lean")
    groups = {group.name: group for group in list_groups(model)}
    product = "bert.encoder.layer.0.intermediate.dense (preactivation)"
    (quantizer,) = groups[product].quantizers
    assert float_quantizers([groups[product]]) == {quantizer}
    assert quantizer in float_quantizers([groups["bert.encoder.layer.0.intermediate.dense"]])
    with leave_out(model, [groups["bert.encoder.layer.0.intermediate.dense"]]):
        assert not dict(named_quantizers(model))[quantizer].enabled


def test_a_float_model_has_no_groups_to_list() -> None:
    with pytest.raises(CheckpointError, match=r"^the model is not quantized: qdq\.wrap it, or load a folder"):
        list_groups(make_float("bert"))


def test_leaving_a_group_out_is_the_model_without_it_and_ends() -> None:
    model = make_calibrated(make_float("bert"))
    whole = score(model).outputs["logits"]
    group = list_groups(model)[0]
    with leave_out(model, [group]):
        switched = {name for name, quantizer in named_quantizers(model) if not quantizer.enabled}
        without = score(model).outputs["logits"]
    assert switched == float_quantizers([group])
    assert not np.array_equal(without, whole)
    np.testing.assert_array_equal(score(model).outputs["logits"], whole)


def test_the_broken_group_does_the_most_harm() -> None:
    model = broken_bert()
    steps: list[tuple[int, int]] = []
    report = measure_sensitivity(model, score, progress=lambda done, total: steps.append((done, total)))
    assert report.rows[0].group.name == BROKEN
    assert report.rows[0].harm > 0.5 * report.quantized_error
    assert [row.harm for row in report.rows] == sorted((row.harm for row in report.rows), reverse=True)
    total = len(report.rows) + 2
    assert steps == [(i, total) for i in range(1, total + 1)]


def test_the_error_is_that_of_the_float_model() -> None:
    model = broken_bert()
    report = measure_sensitivity(model, score)
    with disable_quantizers(model):
        reference = score(model)
    assert report.float_metric == reference.value
    assert report.quantized_error == answer_error(score(model).outputs, reference.outputs)
    assert answer_error(reference.outputs, reference.outputs) == 0.0


def test_the_choice_keeps_the_broken_group_in_float_and_nothing_else() -> None:
    model = broken_bert()
    report = measure_sensitivity(model, float_answers_as_labels)
    assert report.quantized_metric < 0.9
    choice = choose_float_groups(model, report, float_answers_as_labels, max_drop=0.1)
    assert choice.reached
    assert [group.name for group in choice.groups] == [BROKEN]
    assert choice.metric >= 0.9


def test_what_was_cheap_but_did_not_help_leaves_again() -> None:
    model = broken_bert()
    report = measure_sensitivity(model, float_answers_as_labels)
    choice = choose_float_groups(
        model,
        report,
        float_answers_as_labels,
        max_drop=0.1,
        cost=lambda group: 1e9 if group.name == BROKEN else 1.0,
    )
    assert [group.name for group in choice.groups] == [BROKEN]


def test_the_recipe_of_a_choice_wraps_without_the_group() -> None:
    model = make_float("bert")
    wrap(model)
    groups = {group.name: group for group in list_groups(model)}
    recipe = keep_float(quantization_config(model).recipe, [groups[BROKEN]])
    mixed = make_float("bert")
    wrap(mixed, recipe)
    left = {name for name, _ in named_quantizers(model)} - float_quantizers([groups[BROKEN]])
    assert {name for name, _ in named_quantizers(mixed)} == left


def test_leaving_everything_out_is_the_float_model() -> None:
    model = make_calibrated(make_float("bert"))
    with disable_quantizers(model), torch.no_grad():
        reference = score(model).outputs["logits"]
    with leave_out(model, list_groups(model)):
        np.testing.assert_array_equal(score(model).outputs["logits"], reference)
