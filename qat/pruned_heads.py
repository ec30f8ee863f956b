"""Attention heads taken out of a model, as ``pruned_heads`` in its configuration says.

The entry is transformers 4's: layer numbers, each with the heads it lost, numbered as in the whole model. In a family
whose layers are shared (ALBERT) a layer is one with weights of its own, not a depth.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from qat.errors import CheckpointError

Heads = Mapping[int, Sequence[int]]
"""Heads by layer, both numbered from 0."""


@dataclass(frozen=True, slots=True)
class HeadSlice:
    """A parameter that the heads of a layer share out among them, in equal pieces along one axis.

    Attributes:
        path: where it is, below its layer.
        axis: the axis; 0 holds what the heads write, 1 what is read from them.
        copies: how many times all heads follow one another along it.
    """

    path: str
    axis: int = 0
    copies: int = 1


@dataclass(frozen=True, slots=True)
class HeadPlan:
    """Where the heads of one encoder layer are.

    Attributes:
        counter: the path of the module that counts them, below the layer.
        slices: the parameters they share out.
    """

    counter: str
    slices: tuple[HeadSlice, ...]


def bert_like_heads(inner: str, dense: str) -> HeadPlan:
    """The heads of an attention ``inner`` with the Linears query, key and value, read by the Linear ``dense``."""
    written = (HeadSlice(f"{inner}.{part}.{name}") for part in ("query", "key", "value") for name in ("weight", "bias"))
    return HeadPlan(counter=inner, slices=(*written, HeadSlice(f"{dense}.weight", axis=1)))


def read_pruned_heads(config: PreTrainedConfig) -> dict[int, list[int]]:
    """The heads a configuration says are gone, by layer; empty for a whole model.

    Raises:
        CheckpointError: the entry is not one.
    """
    entry: Any = getattr(config, "pruned_heads", None) or {}
    try:
        found = {int(layer): sorted({int(head) for head in heads}) for layer, heads in dict(entry).items()}
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"pruned_heads in config.json is {entry!r}: layers with lists of heads are expected, as {{'0': [1, 2]}}"
        ) from error
    return {layer: heads for layer, heads in sorted(found.items()) if heads}


def prune_heads(model: PreTrainedModel, layers: Sequence[tuple[nn.Module, HeadPlan]], heads: Heads) -> None:
    """Takes ``heads`` out of a float model in place, and writes them into its configuration.

    Args:
        model: with or without heads that are gone already.
        layers: its encoder layers in order, with the places of their heads.
        heads: numbered as in the whole model.

    Raises:
        CheckpointError: a layer or head there is not, a layer that would lose all, or groups of a convolution that
            would lose different numbers of them; the model is then as it was.
    """
    gone = read_pruned_heads(model.config)
    wanted = {layer: sorted({*gone.get(layer, ()), *heads.get(layer, ())}) for layer in sorted({*gone, *heads})}
    kept = {}
    for number, lost in wanted.items():
        if not 0 <= number < len(layers):
            raise CheckpointError(
                f"no layer {number} to take heads out of: the model has layers 0 to {len(layers) - 1}"
            )
        layer, plan = layers[number]
        before = gone.get(number, [])
        kept[number] = _kept_heads(layer, plan, number, before, lost)
    for number, remaining in kept.items():
        _cut_layer(*layers[number], remaining)
    model.config.pruned_heads = {layer: heads for layer, heads in wanted.items() if heads}


def present_heads(model: PreTrainedModel, layers: Sequence[tuple[nn.Module, HeadPlan]]) -> list[list[int]]:
    """The heads each layer still has, numbered as in the whole model."""
    gone = read_pruned_heads(model.config)
    totals = [count_heads(*layer) + len(gone.get(number, ())) for number, layer in enumerate(layers)]
    return [[head for head in range(total) if head not in gone.get(i, ())] for i, total in enumerate(totals)]


def count_heads(layer: nn.Module, plan: HeadPlan) -> int:
    """How many heads a layer has now."""
    return int(cast(Any, layer.get_submodule(plan.counter)).num_attention_heads)


def _kept_heads(layer: nn.Module, plan: HeadPlan, number: int, before: Sequence[int], lost: Sequence[int]) -> list[int]:
    """The heads to keep, by their places in the layer as it is."""
    there = count_heads(layer, plan)
    total = there + len(before)
    wrong = [head for head in lost if not 0 <= head < total]
    if wrong:
        raise CheckpointError(f"layer {number} has no head {wrong[0]}: its heads are 0 to {total - 1}")
    present = [head for head in range(total) if head not in before]
    remaining = [place for place, head in enumerate(present) if head not in lost]
    if not remaining:
        raise CheckpointError(f"layer {number} would lose all of its {total} heads: leave it at least one")
    for groups in group_counts(layer, plan):
        if there % groups:
            raise CheckpointError(
                f"layer {number} has {there} heads in convolutions of {groups} groups, which cut heads apart: none "
                "of them can be taken out"
            )
        of_group = there // groups
        counts = {sum(place // of_group == group for place in remaining) for group in range(groups)}
        if len(counts) > 1:
            names = [present[group * of_group : (group + 1) * of_group] for group in range(groups)]
            raise CheckpointError(
                f"layer {number} would keep different numbers of heads in the {groups} groups of a convolution: take "
                f"as many from each of {'; '.join(', '.join(map(str, group)) for group in names)}"
            )
    return remaining


def group_counts(layer: nn.Module, plan: HeadPlan) -> set[int]:
    """The group counts, other than one, of the convolutions that write or read a layer's heads."""
    owners = (layer.get_submodule(each.path.rpartition(".")[0]) for each in plan.slices)
    return {owner.groups for owner in owners if isinstance(owner, nn.Conv1d)} - {1}


def _cut_layer(layer: nn.Module, plan: HeadPlan, remaining: Sequence[int]) -> None:
    counter: Any = layer.get_submodule(plan.counter)
    total = counter.num_attention_heads
    for each in plan.slices:
        owner_path, _, name = each.path.rpartition(".")
        owner = layer.get_submodule(owner_path)
        groups = owner.groups if isinstance(owner, nn.Conv1d) and each.axis == 1 else 1
        parameter = owner.get_parameter(name)
        cut = nn.Parameter(_keep(parameter.detach(), each, total, remaining, groups), parameter.requires_grad)
        setattr(owner, name, cut)
        _resize(owner)
    counter.num_attention_heads = len(remaining)
    counter.all_head_size = len(remaining) * counter.attention_head_size


def _keep(values: Tensor, cut: HeadSlice, total: int, remaining: Sequence[int], groups: int) -> Tensor:
    """The pieces of the remaining heads; along axis 1 of a grouped weight each group has the heads it reads."""
    width = values.shape[cut.axis] * groups // (total * cut.copies)
    heads = torch.tensor([copy * total + head for copy in range(cut.copies) for head in remaining])
    index = (heads[:, None] * width + torch.arange(width)).flatten().to(values.device)
    if groups == 1:
        return values.index_select(cut.axis, index).clone()
    inside = index.unflatten(0, (groups, -1)) % values.shape[1]  # as many for every group
    pieces = zip(values.chunk(groups), inside, strict=True)
    return torch.cat([piece.index_select(1, places) for piece, places in pieces])


def _resize(owner: nn.Module) -> None:
    """Makes a layer's own sizes those of its weight."""
    if isinstance(owner, nn.Linear):
        owner.out_features, owner.in_features = owner.weight.shape
    elif isinstance(owner, nn.Conv1d):
        owner.out_channels, owner.in_channels = owner.weight.shape[0], owner.weight.shape[1] * owner.groups
