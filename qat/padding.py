"""Which tokens of a batch are real: padding enters no range, no loss and no metric."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from qat.spec import QuantSpec

_ADDITIVE = 4
"""Axes of a mask that is added to scores, ``(batch, 1, 1, tokens)``: 0 where a token is real."""


def find_real(mask: Tensor | None) -> Tensor | None:
    """Which tokens of a batch, counted through its rows, are real; None where all are.

    >>> import torch
    >>> find_real(torch.tensor([[1, 1], [1, 0]])), find_real(torch.ones(2, 2))
    (tensor([0, 1, 2]), None)
    """
    if mask is None or bool(mask.all()):
        return None
    return mask.flatten().nonzero().flatten()


def real_tokens(x: Tensor, real: Tensor | None, token_axis: int) -> Tensor:
    """``x`` at its real tokens, as ``(tokens, values)``, without gradient.

    Args:
        x: an activation, batch first.
        real: as ``find_real`` gives it.
        token_axis: where ``x`` has its tokens.

    >>> import torch
    >>> real_tokens(torch.tensor([[[1.0], [-9.0]]]), torch.tensor([0]), 1)
    tensor([[1.]])
    """
    flat = list_tokens(x, token_axis)
    return flat if real is None else flat.index_select(0, real)


def list_tokens(x: Tensor, token_axis: int) -> Tensor:
    """All tokens of ``x``, padding among them, as ``(tokens, values)``, without gradient."""
    tokens = x.detach().movedim(token_axis, 1)
    return tokens.reshape(tokens.shape[0] * tokens.shape[1], -1)


@dataclass(frozen=True, slots=True)
class RealTokens:
    """Which tokens of a batch are real: its own, and those of the states it attends to; None where all are."""

    own: Tensor | None = None
    encoder: Tensor | None = None

    @classmethod
    def of(cls, batch: Mapping[str, Tensor]) -> Self:
        """As the masks of a batch say."""
        mask = batch.get("encoder_attention_mask")
        if mask is not None and mask.dim() == _ADDITIVE:
            mask = mask[:, 0, 0] == 0
        return cls(find_real(batch.get("attention_mask")), find_real(mask))

    def find(self, spec: QuantSpec) -> Tensor | None:
        """The numbers of the real tokens of a tensor of that specification, None for all."""
        return self.encoder if spec.tokens == "encoder" else self.own

    def pick(self, x: Tensor, spec: QuantSpec) -> Tensor:
        """``x``, a tensor of that specification, at its real tokens, as ``(tokens, values)``, without gradient."""
        return real_tokens(x, self.find(spec), spec.token_axis)
