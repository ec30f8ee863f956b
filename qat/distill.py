"""Distillation: the quantized model is pulled towards what its float original answers, and how it gets there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from qat.answers import has_independent_labels, is_distribution, name_answers, read_answers
from qat.errors import CheckpointError
from qat.families import find_family
from qat.residual_stream import Gain
from qat.wrap import is_wrapped

_SMALLEST_PROBABILITY = 0.5 / 127
"""Half an INT8 step of a probability: what a quantized one of zero may stand for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Distillation:
    """What a student learns from its teacher, beside the labels.

    Attributes:
        answers: the share of the loss that the teacher's logits have; the labels have the rest.
        temperature: of the softened logits.
        hidden: how much the distance of the hidden states adds to the loss.
        attention: how much the distance of the attention probabilities adds.
    """

    answers: float = 0.9
    temperature: float = 2.0
    hidden: float = 0.0
    attention: float = 0.0


def prepare_teacher(teacher: PreTrainedModel, distillation: Distillation) -> PreTrainedModel:
    """``teacher`` without gradients or dropout, in place; it shows its attention where that is wanted."""
    teacher.requires_grad_(False).eval()
    if distillation.attention:
        teacher.set_attn_implementation("eager")
    return teacher


def requested_outputs(distillation: Distillation) -> dict[str, bool]:
    """What both models must be asked for beside their logits, as arguments of ``forward``."""
    asked = {"output_hidden_states": distillation.hidden, "output_attentions": distillation.attention}
    return {name: True for name, weight in asked.items() if weight}


def teaching_loss(
    student: PreTrainedModel,
    given: Mapping[str, Any],
    wanted: Mapping[str, Any],
    batch: Mapping[str, Tensor],
    distillation: Distillation,
) -> tuple[Tensor, Tensor]:
    """The distance of the answers, and what hidden states and attention add to the loss.

    Args:
        student: the quantized model, for its family and the units of its residual stream.
        given: its outputs.
        wanted: the teacher's.
        batch: what both were given, with its labels where it has any.
        distillation: the weights.

    Raises:
        CheckpointError: a teacher of other sizes.
    """
    independent, mask = has_independent_labels(student.config), batch.get("attention_mask")
    answers = answer_distance(given, wanted, batch, distillation.temperature, independent=independent)
    inner = answers.new_zeros(())
    if distillation.hidden:
        inner = inner + distillation.hidden * hidden_distance(
            _in_float_units(student, given["hidden_states"]), wanted["hidden_states"], mask
        )
    if distillation.attention:
        ours, theirs = (_probabilities(student, each["attentions"]) for each in (given, wanted))
        inner = inner + distillation.attention * attention_distance(ours, theirs, mask)
    return answers, inner


def answer_distance(
    given: Mapping[str, Any],
    wanted: Mapping[str, Any],
    batch: Mapping[str, Tensor],
    temperature: float,
    *,
    independent: bool,
) -> Tensor:
    """The mean distance of all logits in the outputs of student and teacher, of the answers that count.

    Positions of an answer span are one distribution over the real tokens; a single logit is a number, compared by its
    square; independent labels are one distribution each.
    """
    for name in name_answers(wanted):
        _require_alike(name, [given[name]], [wanted[name]])
    student, teacher = (read_answers(output, batch, independent=independent) for output in (given, wanted))
    parts = [
        distillation_loss(student[name], x, temperature)
        if is_distribution(name, x)
        else number_distance(name, student[name], x)
        for name, x in teacher.items()
    ]
    return torch.stack(parts).mean()


def number_distance(name: str, student: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared difference of numbers; of vectors the squared length of it over that of the teacher's.

    Of vectors of length 1 that is twice what their cosine lacks to 1.

    >>> float(number_distance("sentence_embedding", torch.tensor([[3.0, 0.0]]), torch.tensor([[3.0, 4.0]])))
    0.6399999856948853
    >>> float(number_distance("logits", torch.tensor([[3.0]]), torch.tensor([[5.0]])))
    4.0
    """
    if name.endswith("logits"):
        return functional.mse_loss(student, teacher)
    apart, lengths = ((x.square()).sum(dim=-1) for x in (student - teacher, teacher))
    return (apart / lengths.clamp(min=torch.finfo(torch.float32).tiny)).mean()


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The mean Kullback-Leibler divergence of softened logits, times the temperature squared.

    Hinton et al. 2015 (arXiv 1503.02531), section 2: ``T^2 * KL(softmax(teacher / T) || softmax(student / T))``; the
    square keeps the size of the gradient independent of the temperature.

    Args:
        student: logits ``(rows, labels)``.
        teacher: logits of the same rows, without gradient.
        temperature: above 1 softens.

    >>> logits = torch.tensor([[2.0, 0.0]])
    >>> float(distillation_loss(logits, logits, 2.0))
    0.0
    >>> round(float(distillation_loss(torch.zeros(1, 2), logits, 1.0)), 4)
    0.3278
    """
    softened = functional.log_softmax(student.float() / temperature, dim=-1)
    target = functional.log_softmax(teacher.float() / temperature, dim=-1)
    return functional.kl_div(softened, target, reduction="batchmean", log_target=True) * temperature**2


def hidden_distance(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor | None) -> Tensor:
    """The mean squared error of real tokens' hidden states over the teacher's mean square, averaged over the layers.

    After Jiao et al. 2020, "TinyBERT" (arXiv 1909.10351), equation 8; the quotient makes layers weigh alike.

    Args:
        student: hidden states ``(batch, tokens, hidden)``, the embeddings' first.
        teacher: likewise, of the same shapes.
        mask: 1 for real tokens, ``(batch, tokens)``; None where all are.

    Raises:
        CheckpointError: other shapes.

    >>> one = torch.ones(1, 2, 4)
    >>> float(hidden_distance([one * 3], [one * 2], torch.tensor([[1, 0]])))
    0.25
    """
    _require_alike("hidden states", student, teacher)
    real = slice(None) if mask is None else mask.flatten().bool()
    parts = []
    for ours, theirs in zip(student, teacher, strict=True):
        given, wanted = (x.flatten(0, 1)[real].float() for x in (ours, theirs))
        parts.append((given - wanted).square().mean() / wanted.square().mean())
    return torch.stack(parts).mean()


def attention_distance(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor | None) -> Tensor:
    """The mean Kullback-Leibler divergence of real tokens' attention, averaged over the layers.

    Wang et al. 2020, "MiniLM" (arXiv 2002.10957), equation 6, over all layers. A probability that INT8 rounds to zero
    counts as half a step.

    Args:
        student: probabilities ``(batch, heads, tokens, tokens)``.
        teacher: likewise, of the same shapes.
        mask: 1 for real tokens, ``(batch, tokens)``; None where all are.

    Raises:
        CheckpointError: other shapes.

    >>> even, sharp = torch.tensor([[[[0.5, 0.5]]]]), torch.tensor([[[[1.0, 0.0]]]])
    >>> round(float(attention_distance([even], [sharp], None)), 4)
    0.6931
    """
    _require_alike("attentions", student, teacher)
    parts = []
    for ours, theirs in zip(student, teacher, strict=True):
        given, wanted = ours.float().clamp(min=_SMALLEST_PROBABILITY), theirs.float()
        apart = torch.special.xlogy(wanted, wanted) - torch.special.xlogy(wanted, given)
        rows = apart.sum(dim=-1).movedim(1, -1)
        parts.append((rows if mask is None else rows[mask.flatten(0, -2).bool()]).mean())
    return torch.stack(parts).mean()


def _probabilities(model: PreTrainedModel, attentions: Sequence[Tensor]) -> Sequence[Tensor]:
    scores = find_family(model.config.model_type).attention_output == "scores"
    return [functional.softmax(each, dim=-1) for each in attentions] if scores else attentions


def _in_float_units(student: PreTrainedModel, states: Sequence[Tensor]) -> list[Tensor]:
    """The hidden states of a wrapped model as its float original has them; the last are so already."""
    if not is_wrapped(student):
        return list(states)
    units = stream_units(student)
    return [*(state * unit.to(state) for state, unit in zip(states[:-1], units, strict=True)), states[-1]]


def stream_units(model: PreTrainedModel) -> list[Tensor]:
    """The units of what enters each layer of a wrapped model, in the order they run, ``(hidden,)`` each.

    What ``output_hidden_states`` gives, but for the last, times its unit is what the float model has there.
    """
    family = find_family(model.config.model_type)
    tensors = family.stream_tensors(model)
    units = []
    for name in family.order([name for name, _ in family.layers(model)], model.config):
        entering = next(each for each in tensors if any(path.startswith(f"{name}.") for path in each.readers))
        units.append(cast(Gain, model.get_submodule(entering.gains[0])).gain)
    return units


def _require_alike(what: str, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
    shapes = [[tuple(x.shape) for x in each] for each in (student, teacher)]
    if shapes[0] != shapes[1]:
        raise CheckpointError(
            f"the {what} of the teacher are {len(teacher)} of shape {shapes[1][0]}, the student's {len(student)} of "
            f"{shapes[0][0]}: give the float checkpoint the student was made from"
        )
