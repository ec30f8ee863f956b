"""Sensitivity: how much each group of quantizers harms a model, and the fewest groups to keep in float.

A group is what an engine runs in INT8 together or not at all: a tensor, everybody who reads it, and the weights those
readers multiply it with; the four quantizers of an attention are one group.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel

from qat.families import find_family
from qat.families.base import LayerPlan, Reader
from qat.huggingface import quantization_config
from qat.quantizer import FakeQuantizer, disable_quantizers, named_quantizers
from qat.recipe import Recipe, Rule
from qat.scoring import Accuracy
from qat.tasks.base import Outputs

Score = Callable[[PreTrainedModel], Accuracy]
"""Scores a model on rows that are not the reported ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizerGroup:
    """What becomes float together.

    Attributes:
        name: the module that stands for it, the first that reads the tensor.
        readers: what a recipe must leave float.
        quantizers: the paths of its quantizers.
    """

    name: str
    readers: tuple[Reader, ...]
    quantizers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensitivity:
    """What one group costs, measured by leaving it out: everything quantized but this group.

    Attributes:
        group: which one.
        harm: by how much the relative squared error of the answers falls when the group is float.
        metric: the task's metric with the group in float.
    """

    group: QuantizerGroup
    harm: float
    metric: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SensitivityReport:
    """The model in float, fully quantized, and with each group left out, most harmful first, by the task's headline."""

    metric_name: str
    float_metric: float
    quantized_metric: float
    quantized_error: float
    rows: tuple[Sensitivity, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class FloatChoice:
    """The groups to keep in float, the metric that gives, and the recipe that says so."""

    groups: tuple[QuantizerGroup, ...]
    metric: float
    reached: bool
    recipe: Recipe


def list_groups(model: PreTrainedModel) -> tuple[QuantizerGroup, ...]:
    """The groups of a quantized model, in the order of its layers.

    Raises:
        CheckpointError: the model is not quantized.
    """
    quantization_config(model)
    family = find_family(model.config.model_type)
    there = {name for name, _ in named_quantizers(model)}
    groups = [
        group for name, layer in family.layers(model) for group in _groups_of(family.plan(name, layer, model), there)
    ]
    return tuple(group for group in groups if group.quantizers)


def measure_sensitivity(
    model: PreTrainedModel, score: Score, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> SensitivityReport:
    """The harm of every group, each left out in turn; the model is unchanged afterwards.

    Args:
        model: a calibrated model.
        score: the metric and answers on some rows; never those a result is reported on.
        progress: called with the passes done and all passes.

    Raises:
        CheckpointError: the model is not quantized.
    """
    groups = list_groups(model)
    total = len(groups) + 2
    with disable_quantizers(model):
        reference = score(model)
    progress(1, total)
    quantized = score(model)
    progress(2, total)
    error = answer_error(quantized.outputs, reference.outputs)
    rows = []
    for number, group in enumerate(groups, start=3):
        with leave_out(model, [group]):
            found = score(model)
        harm = error - answer_error(found.outputs, reference.outputs)
        rows.append(Sensitivity(group=group, harm=harm, metric=found.value))
        progress(number, total)
    return SensitivityReport(
        metric_name=reference.metric,
        float_metric=reference.value,
        quantized_metric=quantized.value,
        quantized_error=error,
        rows=tuple(sorted(rows, key=lambda row: -row.harm)),
    )


def choose_float_groups(
    model: PreTrainedModel,
    report: SensitivityReport,
    score: Score,
    *,
    max_drop: float,
    cost: Callable[[QuantizerGroup], float] = lambda group: 1.0,
    progress: Callable[[int, int], None] = lambda done, groups: None,
) -> FloatChoice:
    """The groups to keep in float so that the metric falls by at most ``max_drop`` of its float value.

    Groups join in the order of harm for each unit of cost, each step is measured, and those that turn out not to be
    needed leave again.

    Args:
        model: the calibrated model that was measured.
        report: its sensitivities.
        score: as when measuring.
        max_drop: a share of the float metric, 0.005 for half a percent.
        cost: what keeping a group in float costs the engine, in any unit, positive.
        progress: called after each step with how many groups were tried, and how many there are at most.
    """
    wanted = report.float_metric * (1 - max_drop)
    order = sorted(report.rows, key=lambda row: -row.harm / cost(row.group))
    chosen: list[QuantizerGroup] = []
    metric = report.quantized_metric
    for row in order:
        if metric >= wanted or row.harm <= 0:
            break
        chosen.append(row.group)
        metric = _score_without(model, chosen, score)
        progress(len(chosen), len(order))
    for group in list(chosen[:-1]):
        fewer = [other for other in chosen if other is not group]
        without = _score_without(model, fewer, score)
        if without >= wanted:
            chosen, metric = fewer, without
    recipe = keep_float(quantization_config(model).recipe, chosen)
    return FloatChoice(groups=tuple(chosen), metric=metric, reached=metric >= wanted, recipe=recipe)


def keep_float(recipe: Recipe, groups: Sequence[QuantizerGroup]) -> Recipe:
    """``recipe`` with a last rule for every reader of ``groups`` that leaves it float."""
    rules = [
        Rule(layers=reader.module, roles=(reader.role,), quantize=False) for group in groups for reader in group.readers
    ]
    return recipe.model_copy(update={"rules": (*recipe.rules, *rules)})


def answer_error(outputs: Outputs, reference: Outputs) -> float:
    """The squared error of a model's answers as a share of the reference's variance, averaged over their fields.

    >>> answer_error({"logits": np.array([[1.0, 3.0]])}, {"logits": np.array([[1.0, 2.0]])})
    2.0
    """
    errors = [
        float(np.nanmean(np.square(outputs[name] - wanted)) / np.nanvar(wanted)) if np.nanvar(wanted) > 0 else 0.0
        for name, wanted in reference.items()
    ]
    return sum(errors) / len(errors)


def float_quantizers(groups: Sequence[QuantizerGroup]) -> frozenset[str]:
    """The paths of all quantizers that are off when ``groups`` are float: a float weight has no INT8 product."""
    names = {name for group in groups for name in group.quantizers}
    owners = {name.rpartition(".")[0] for name in names if name.endswith(".weight_quantizer")}
    return frozenset(names | {f"{owner}.product_quantizer" for owner in owners})


@contextmanager
def leave_out(model: PreTrainedModel, groups: Sequence[QuantizerGroup]) -> Iterator[None]:
    """Inside the block the quantizers of ``groups`` are off, as ``float_quantizers`` counts them."""
    names = float_quantizers(groups)
    chosen: list[FakeQuantizer] = [each for name, each in named_quantizers(model) if name in names and each.enabled]
    for quantizer in chosen:
        quantizer.enabled = False
    try:
        yield
    finally:
        for quantizer in chosen:
            quantizer.enabled = True


def _score_without(model: PreTrainedModel, groups: Sequence[QuantizerGroup], score: Score) -> float:
    with leave_out(model, groups):
        return score(model).value


def _groups_of(plan: LayerPlan, there: set[str]) -> Iterator[QuantizerGroup]:
    """Readers that share a tensor, or a module whose input and weight they are, fall into one group."""
    bundles: list[tuple[list[Reader], list[str]]] = [
        (list(activation.readers), [f"{point.owner}.{point.slot}" for point in activation.points])
        for activation in plan.activations
    ]
    for group in plan.weights:
        inputs = [Reader(path, "input") for path in group]
        weights = [Reader(path, "weight") for path in group]
        bundles.append(([*weights, *inputs], [f"{path}.weight_quantizer" for path in group]))
    merged: list[tuple[list[Reader], list[str]]] = []
    for readers, slots in bundles:
        apart = [each for each in merged if not set(each[0]) & set(readers)]
        together = [each for each in merged if set(each[0]) & set(readers)]
        joined = [reader for each, _ in together for reader in each] + readers
        merged = [*apart, (list(dict.fromkeys(joined)), [slot for _, each in together for slot in each] + slots)]
    for readers, slots in merged:
        present = tuple(dict.fromkeys(slot for slot in slots if slot in there))
        yield QuantizerGroup(name=_name(readers), readers=tuple(readers), quantizers=present)


def _name(readers: Sequence[Reader]) -> str:
    first = readers[0]
    return first.module if first.role in ("weight", "input", "attention") else f"{first.module} ({first.role})"
