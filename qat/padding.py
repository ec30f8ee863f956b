"""Which tokens of a batch are real: padding enters no range, no loss and no metric."""

from torch import Tensor


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
    tokens = x.detach().movedim(token_axis, 1)
    flat = tokens.reshape(tokens.shape[0] * tokens.shape[1], -1)
    return flat if real is None else flat.index_select(0, real)
