"""Outlier neurons of a feed-forward block split into equal copies: the same function with a smaller weight range.

One large weight of the second matrix sets the step of all the others when a weight has a single range (MiniLM: 7.9
where the standard deviation is 0.045). A neuron that stands twice, each copy with half its outgoing weights, computes
the same sum; repeated on the largest, the range shrinks to a fraction for a few more columns. This is the outlier
channel splitting of Zhao et al. 2019 (arXiv 1901.09504), section 3, applied to the hidden neurons, where it is exact
and any engine runs it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from qat.families import find_family

ALIGNMENT = 32
"""Neurons are added in this many, the width engines like their INT8 matrices to be a multiple of."""

_WORTHWHILE = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitBlock:
    """What splitting did to one feed-forward block: the largest weight of its second matrix before and after."""

    name: str
    before: float
    after: float


def split_outlier_neurons(model: PreTrainedModel) -> tuple[SplitBlock, ...]:
    """The blocks whose outliers were split, in place; none where no block has an outlier worth it.

    Every block grows by ``ALIGNMENT`` neurons, because a configuration knows one width, and only when the largest
    weight of some block falls to half or less.

    Args:
        model: a float model of a known family; its outputs stay the same up to FP32 rounding. A family whose
            feed-forward blocks need not be two Linears is left alone.
    """
    family = find_family(model.config.model_type)
    if family.feed_forward is None:
        return ()
    paths = [(name, *family.feed_forward(name)) for name, _ in family.layers(model)]
    blocks = [(name, _linear(model, first), _linear(model, second)) for name, first, second in paths]
    copies = [count_copies(second.weight.detach().abs().amax(dim=0), ALIGNMENT) for _, _, second in blocks]
    found = tuple(
        SplitBlock(name=name, before=_largest(second.weight), after=_largest(second.weight / count))
        for (name, _, second), count in zip(blocks, copies, strict=True)
    )
    if all(block.before < _WORTHWHILE * block.after for block in found):
        return ()
    for (_, first, second), count in zip(blocks, copies, strict=True):
        _repeat_neurons(first, second, count)
    setattr(model.config, family.neurons, getattr(model.config, family.neurons) + ALIGNMENT)
    return found


def count_copies(peaks: Tensor, extra: int) -> Tensor:
    """How often each neuron is to stand so that the largest ``peak / copies`` is smallest, ``extra`` copies spent.

    >>> count_copies(torch.tensor([1.0, 8.0, 3.0]), 4)
    tensor([1, 4, 2])
    """
    counts = torch.ones_like(peaks, dtype=torch.int64)
    for _ in range(extra):
        counts[int((peaks / counts).argmax())] += 1
    return counts


def _linear(model: nn.Module, path: str) -> nn.Linear:
    module = model.get_submodule(path)
    assert isinstance(module, nn.Linear)
    return module


def _largest(weight: Tensor) -> float:
    return float(weight.detach().abs().max())


def _repeat_neurons(first: nn.Linear, second: nn.Linear, counts: Tensor) -> None:
    index = torch.repeat_interleave(torch.arange(len(counts)), counts)
    with torch.no_grad():
        first.weight = nn.Parameter(first.weight[index].contiguous())
        first.bias = nn.Parameter(first.bias[index].contiguous())
        second.weight = nn.Parameter((second.weight / counts)[:, index].contiguous())
    first.out_features = second.in_features = len(index)
