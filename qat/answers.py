"""What a model answers: the fields of its output that count, and which of their values padding makes meaningless."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

OVER_TOKENS = ("start_logits", "end_logits")
"""Fields whose distribution is over the tokens of a sequence, ``(batch, tokens)``."""


def name_answers(output: Mapping[str, Any]) -> list[str]:
    """The fields of a model's output that are its answers: those that end with ``logits``, or the first tensor.

    >>> name_answers({"loss": 0.0, "start_logits": torch.zeros(1), "end_logits": torch.zeros(1)})
    ['start_logits', 'end_logits']
    """
    tensors = [name for name, x in output.items() if isinstance(x, Tensor)]
    return [name for name in tensors if name.endswith("logits")] or tensors[:1]


def read_answers(output: Mapping[str, Any], mask: Tensor | None) -> dict[str, Tensor]:
    """The answers by field, in FP32, with padding taken out of them.

    Args:
        output: the model's.
        mask: its ``attention_mask``, None where all tokens are real. Where an answer has an entry a token, those of
            padding become 0; where it is one distribution over the tokens, padding gets the lowest logit there is.

    >>> mask = torch.tensor([[1, 1, 0]])
    >>> read_answers({"logits": torch.ones(1, 3, 2)}, mask)["logits"].tolist()
    [[[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]]
    >>> read_answers({"start_logits": torch.ones(1, 3)}, mask)["start_logits"].softmax(dim=-1).tolist()
    [[0.5, 0.5, 0.0]]
    """
    return {name: _take_out(name, output[name].float(), mask) for name in name_answers(output)}


def _take_out(name: str, x: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return x
    padding = mask == 0
    if name in OVER_TOKENS:
        return x.masked_fill(padding, torch.finfo(x.dtype).min)
    if x.dim() == mask.dim() + 1 and x.shape[:-1] == mask.shape:
        return x.masked_fill(padding[..., None], 0.0)
    return x


def is_distribution(name: str, x: Tensor) -> bool:
    """Whether an answer is logits over its last axis, and not numbers that stand for themselves.

    >>> is_distribution("logits", torch.zeros(2, 3)), is_distribution("logits", torch.zeros(2, 1))
    (True, False)
    """
    return name.endswith("logits") and x.shape[-1] > 1
