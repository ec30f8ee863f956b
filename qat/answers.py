"""What a model answers: the fields of its output that count, and which of their values count nowhere."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from qat.tasks.base import IGNORED_LABEL

OVER_TOKENS = ("start_logits", "end_logits")
"""Fields whose distribution is over the tokens of a sequence, ``(batch, tokens)``."""

_NOWHERE = -1e30
"""A logit whose probability is 0, and that no temperature makes infinite."""

_MULTI_LABEL = "multi_label_classification"


def name_answers(output: Mapping[str, Any]) -> list[str]:
    """The fields of a model's output that are its answers: those that end with ``logits``, or the first tensor.

    >>> name_answers({"loss": 0.0, "start_logits": torch.zeros(1), "end_logits": torch.zeros(1)})
    ['start_logits', 'end_logits']
    """
    tensors = [name for name, x in output.items() if isinstance(x, Tensor)]
    return [name for name in tensors if name.endswith("logits")] or tensors[:1]


def read_answers(
    output: Mapping[str, Any], batch: Mapping[str, Tensor], *, independent: bool = False
) -> dict[str, Tensor]:
    """The answers by field, in FP32, ``(answers, values)`` each, without those that count nowhere.

    Args:
        output: the model's.
        batch: what it was given; its ``attention_mask``, where there is one, says which tokens are real, and labels of
            single tokens which of those are scored. Where an answer is one distribution over the tokens, padding gets
            a probability of 0.
        independent: whether the values are labels of which any number may be right (``has_independent_labels``): each
            becomes an answer of its own, the two logits of which are the label's and 0.

    >>> batch = {"attention_mask": torch.tensor([[1, 1, 0]])}
    >>> read_answers({"logits": torch.ones(1, 3, 4)}, batch)["logits"].shape
    torch.Size([2, 4])
    >>> read_answers({"start_logits": torch.ones(1, 3)}, batch)["start_logits"].softmax(dim=-1).tolist()
    [[0.5, 0.5, 0.0]]
    >>> read_answers({"logits": torch.ones(1, 3, 4)}, {"labels": torch.tensor([[-100, 2, -100]])})["logits"].shape
    torch.Size([1, 4])
    >>> read_answers({"logits": torch.tensor([[3.0, -1.0]])}, {}, independent=True)["logits"].tolist()
    [[3.0, 0.0], [-1.0, 0.0]]
    """
    return {name: _read(name, output[name].float(), batch, independent=independent) for name in name_answers(output)}


def _read(name: str, x: Tensor, batch: Mapping[str, Tensor], *, independent: bool) -> Tensor:
    x = _hide_padding(name, x, batch)
    counted = find_counted(x, batch)
    x = x.flatten(0, -2) if counted is None else x[counted]
    return torch.stack((x, torch.zeros_like(x)), dim=-1).flatten(0, -2) if independent else x


def _hide_padding(name: str, x: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    mask = batch.get("attention_mask") if name in OVER_TOKENS else None
    return x if mask is None else x.masked_fill(mask == 0, _NOWHERE)


def read_choices(output: Mapping[str, Any], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The place of the largest value of every answer by field, ``(batch, ...)``; -1 where an answer counts nowhere.

    >>> batch = {"attention_mask": torch.tensor([[1, 1, 0]])}
    >>> read_choices({"logits": torch.tensor([[[0.0, 1.0], [3.0, 2.0], [5.0, 6.0]]])}, batch)["logits"].tolist()
    [[1, 0, -1]]
    """
    found = {}
    for name in name_answers(output):
        x = _hide_padding(name, output[name].float(), batch)
        counted = find_counted(x, batch)
        places = x.argmax(dim=-1)
        found[name] = places if counted is None else places.masked_fill(~counted, -1)
    return found


def find_counted(x: Tensor, batch: Mapping[str, Tensor]) -> Tensor | None:
    """Which answers of a field ``(..., values)`` count; None where all do.

    >>> batch = {"attention_mask": torch.tensor([[1, 1, 0]]), "labels": torch.tensor([[-100, 2, -100]])}
    >>> find_counted(torch.zeros(1, 3, 4), batch).tolist(), find_counted(torch.zeros(1, 4), batch)
    ([[False, True, False]], None)
    """
    found = [
        entry != nothing
        for name, nothing in (("attention_mask", 0), ("labels", IGNORED_LABEL))
        if (entry := batch.get(name)) is not None and entry.shape == x.shape[:-1] and not entry.is_floating_point()
    ]
    return torch.stack(found).all(dim=0) if found else None


def read_token_labels(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The labels of single tokens, which say where answers count, by name; empty where a batch has none.

    >>> batch = {"input_ids": torch.zeros(1, 2), "labels": torch.tensor([1])}
    >>> read_token_labels(batch)
    {}
    >>> read_token_labels(batch | {"labels": torch.tensor([[-100, 7]])})
    {'labels': tensor([[-100,    7]])}
    """
    labels, tokens = batch.get("labels"), batch.get("attention_mask", batch.get("input_ids"))
    if labels is None or tokens is None or labels.is_floating_point() or labels.shape != tokens.shape:
        return {}
    return {"labels": labels}


def has_independent_labels(config: PreTrainedConfig) -> bool:
    """Whether any number of a head's labels may be right: its logits are then no distribution together."""
    return getattr(config, "problem_type", None) == _MULTI_LABEL


def is_distribution(name: str, x: Tensor) -> bool:
    """Whether an answer is logits over its last axis, and not numbers that stand for themselves.

    >>> is_distribution("logits", torch.zeros(2, 3)), is_distribution("logits", torch.zeros(2, 1))
    (True, False)
    """
    return name.endswith("logits") and x.shape[-1] > 1
