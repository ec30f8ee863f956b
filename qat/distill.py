"""Distillation: the quantized model is pulled towards what its float original answers."""

from torch import Tensor
from torch.nn import functional


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The mean Kullback-Leibler divergence of softened logits, times the temperature squared.

    Hinton et al. 2015 (arXiv 1503.02531), section 2: ``T^2 * KL(softmax(teacher / T) || softmax(student / T))``; the
    square keeps the size of the gradient independent of the temperature.

    Args:
        student: logits ``(rows, labels)``.
        teacher: logits of the same rows, without gradient.
        temperature: above 1 softens.

    >>> import torch
    >>> logits = torch.tensor([[2.0, 0.0]])
    >>> float(distillation_loss(logits, logits, 2.0))
    0.0
    >>> round(float(distillation_loss(torch.zeros(1, 2), logits, 1.0)), 4)
    0.3278
    """
    softened = functional.log_softmax(student.float() / temperature, dim=-1)
    target = functional.log_softmax(teacher.float() / temperature, dim=-1)
    return functional.kl_div(softened, target, reduction="batchmean", log_target=True) * temperature**2
