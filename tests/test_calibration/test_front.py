"""Placements between INT8 and float: ordered by harm for each megabyte, measured, and the ones no other beats."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from calibration.front import Placement, PlanCost, measure_placements, pareto_front, price_group
from calibration.sensitivity import QuantizerGroup, SensitivityReport, answer_error, list_groups, measure_sensitivity
from qat.quantizer import disable_quantizers, named_quantizers
from qat.scoring import Accuracy
from tests.calibrated import make_calibrated, tiny_batches
from tests.tiny import tiny_bert

BATCH = tiny_batches(8)[0]


def score(model: PreTrainedModel) -> Accuracy:
    with torch.no_grad():
        logits = model(**BATCH).logits.numpy()
    return Accuracy(task="text-classification", metrics={"accuracy": 1.0}, n=len(logits), outputs={"logits": logits})


def megabyte_a_layer(groups: Sequence[QuantizerGroup]) -> PlanCost:
    """A plan in which a group of the second layer costs ten times one of the first."""
    costs = [10.0 if ".layer.1." in group.name else 1.0 for group in groups]
    return PlanCost(megabytes=100.0 + sum(costs), kernels=20 + len(groups))


def measured() -> tuple[PreTrainedModel, SensitivityReport]:
    model = make_calibrated(tiny_bert())
    return model, measure_sensitivity(model, score)


def test_groups_become_float_by_harm_for_each_megabyte() -> None:
    model, report = measured()
    steps: list[tuple[int, int]] = []
    total = len(list_groups(model)) + 1
    found = measure_placements(
        model, report, score, megabyte_a_layer, points=99, progress=lambda done, of: steps.append((done, of))
    )
    worth = {row.group.name: row.harm / price_group(megabyte_a_layer, row.group) for row in report.rows}
    order = [group.name for group in max(found, key=lambda each: len(each.groups)).groups]
    assert [worth[name] for name in order] == sorted(worth.values(), reverse=True)
    assert [[group.name for group in each.groups] for each in found] == [order[:count] for count in range(total)]
    assert steps == [(number, total) for number in range(1, total + 1)]


def test_every_placement_is_measured_and_planned_and_the_model_left_as_it_was() -> None:
    model, report = measured()
    before = score(model).outputs
    found = measure_placements(model, report, score, megabyte_a_layer, points=3)
    with disable_quantizers(model):
        reference = score(model).outputs
    assert [len(each.groups) for each in found] == [0, 6, 12]
    assert found[0].error == report.quantized_error == answer_error(before, reference)
    assert found[-1].error == 0.0
    assert [each.cost for each in found] == [megabyte_a_layer(each.groups) for each in found]
    assert all(quantizer.enabled for _, quantizer in named_quantizers(model))
    np.testing.assert_array_equal(score(model).outputs["logits"], before["logits"])


def test_a_group_that_costs_nothing_has_a_price_to_divide_by() -> None:
    group = list_groups(make_calibrated(tiny_bert()))[0]
    assert price_group(lambda groups: PlanCost(megabytes=5.0 - len(groups), kernels=1), group) == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([(1.0, 9.0), (2.0, 5.0), (3.0, 1.0)], [0, 1, 2]),
        ([(1.0, 5.0), (2.0, 5.0), (3.0, 1.0)], [0, 2]),
        ([(1.0, 5.0), (1.0, 4.0)], [1]),
        ([(1.0, 5.0), (2.0, 7.0)], [0]),
        ([(1.0, 5.0), (1.0, 5.0)], [0, 1]),
    ],
)
def test_the_front_holds_what_no_other_beats(points: list[tuple[float, float]], front: list[int]) -> None:
    placements = [
        Placement(groups=(), error=error, metric=0.0, cost=PlanCost(megabytes=megabytes, kernels=number))
        for number, (megabytes, error) in enumerate(points)
    ]
    assert pareto_front(placements) == tuple(placements[number] for number in front)
