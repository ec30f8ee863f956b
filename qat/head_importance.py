"""How much the loss needs each attention head: the first-order estimate of what taking it out would cost.

Michel, Levy, Neubig: Are Sixteen Heads Really Better than One? (arXiv 1905.10650, section 4.1): the expected magnitude,
over rows, of the loss's derivative by a factor on the head's output, where the factor is 1; normalized in each layer by
the scores' Euclidean norm.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain
from math import ceil

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from qat.errors import DataError
from qat.pruned_heads import HeadPlan, HeadSlice, count_heads, group_counts, present_heads
from qat.structure import head_layers

Scores = list[list[float]]
"""For each layer the score of each of its heads."""


class _Factors:
    """The factors on the heads of one layer, one for each sequence of the running batch."""

    def __init__(self, heads: int) -> None:
        self.heads = heads
        self.values: Tensor | None = None

    def apply(self, reader: HeadSlice, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """A forward pre-hook: what the module reads of the heads, each piece times its head's factor."""
        x = inputs[0]
        if self.values is None:
            self.values = torch.ones(x.shape[0], self.heads, requires_grad=True, device=x.device)
        axis = 1 if isinstance(module, nn.Conv1d) else x.ndim - 1
        width = x.shape[axis] // (self.heads * reader.copies)
        factors = self.values.repeat(1, reader.copies).repeat_interleave(width, dim=1)
        shape = [x.shape[0], *(1 for _ in x.shape[1:])]
        shape[axis] = x.shape[axis]
        return (x * factors.view(shape), *inputs[1:])


def measure_importance(
    model: PreTrainedModel,
    batches: Iterable[Mapping[str, Tensor]],
    *,
    progress: Callable[[int], None] = lambda rows: None,
) -> Scores:
    """The score of every head that is there, each layer's of Euclidean norm 1 (all 0 where no row needs its heads).

    Args:
        model: a float model with a head that gives a loss; its gradients are left untouched.
        batches: dicts of tensors with ``labels``.
        progress: told how many rows are done.

    Raises:
        CheckpointError: a family whose heads cannot be taken out.
        DataError: no batches, or some without labels.
    """
    layers = head_layers(model)
    factors = [_Factors(count_heads(layer, plan)) for layer, plan in layers]
    sums = [torch.zeros(each.heads, dtype=torch.float64) for each in factors]
    rows = 0
    with ExitStack() as hooks:
        for (layer, plan), each in zip(layers, factors, strict=True):
            for reader in plan.slices:
                if reader.axis == 1:
                    module = layer.get_submodule(reader.path.rpartition(".")[0])
                    hooks.callback(module.register_forward_pre_hook(partial(each.apply, reader)).remove)
        for batch in batches:
            for each in factors:
                each.values = None
            loss: Tensor | None = model(**batch).loss
            if loss is None:
                raise DataError("the rows have no labels: the importance of heads is measured on the loss")
            count = len(batch["labels"]) if "labels" in batch else len(next(iter(batch.values())))
            given = [each.values for each in factors if each.values is not None]
            found = torch.autograd.grad(loss * count, given)  # the loss is a mean over rows
            for total, gradient in zip(sums, found, strict=True):
                total += gradient.abs().sum(0).double().cpu()
            rows += count
            progress(rows)
    if not rows:
        raise DataError("there are no rows to measure the importance of heads on")
    return [(total / total.norm() if total.any() else total).tolist() for total in sums]


def choose_heads(scores: Scores, share: float, groups: Sequence[int]) -> dict[int, list[int]]:
    """The least important heads by layer, as many as make up ``share`` of all; every layer keeps one.

    Args:
        scores: as ``measure_importance`` gives them.
        share: of all heads, above 0 and below 1.
        groups: for each layer in how many groups its heads lie, each of which loses as many; 1 in most families.

    Raises:
        DataError: a share that cannot be taken out.

    >>> choose_heads([[0.9, 0.1, 0.4], [0.2, 0.8, 0.5]], 0.5, [1, 1])
    {0: [1, 2], 1: [0]}
    >>> choose_heads([[0.9, 0.1, 0.4, 0.5]], 0.5, [2])
    {0: [1, 2]}
    """
    if not 0 < share < 1:
        raise DataError(f"--share {share:g} given: a share of all heads above 0 and below 1 is expected, as 0.5")
    total = sum(map(len, scores))
    wanted = ceil(share * total - 1e-9)
    units = sorted(
        chain.from_iterable(_units(layer, *each) for layer, each in enumerate(zip(scores, groups, strict=True)))
    )
    chosen: dict[int, list[int]] = {}
    taken = 0
    for _, layer, heads in units:
        if taken + len(heads) > wanted:
            break
        chosen.setdefault(layer, []).extend(heads)
        taken += len(heads)
    if not chosen or taken + max(groups) <= wanted:
        most = sum(len(heads) for _, _, heads in units)
        raise DataError(
            f"--share {share:g} means {wanted} of {total} heads: between {min(groups)} and {most} can be taken out"
        )
    return {layer: sorted(heads) for layer, heads in sorted(chosen.items())}


def _units(layer: int, scores: Sequence[float], groups: int) -> list[tuple[float, int, tuple[int, ...]]]:
    """What can be taken out of a layer at a time, the least important first: a head of each group; the last stays."""
    size = len(scores) // groups
    places = [range(group * size, (group + 1) * size) for group in range(groups)]
    ranked = [sorted(group, key=lambda place: scores[place]) for group in places]
    units = list(zip(*ranked, strict=True))[:-1]
    return [(sum(scores[place] for place in unit) / groups, layer, tuple(unit)) for unit in units]


def least_important(model: PreTrainedModel, scores: Scores, share: float) -> dict[int, list[int]]:
    """The least important heads of a model by layer, numbered as in the whole model.

    Raises:
        DataError: a share that cannot be taken out.
    """
    layers: list[tuple[nn.Module, HeadPlan]] = head_layers(model)
    chosen = choose_heads(scores, share, [max(group_counts(*layer), default=1) for layer in layers])
    present = present_heads(model, layers)
    return {layer: [present[layer][place] for place in places] for layer, places in chosen.items()}
