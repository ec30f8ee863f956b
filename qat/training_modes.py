"""How a model is while it trains, and as it was afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers import PreTrainedModel


@contextmanager
def dropping(model: nn.Module, share: float) -> Iterator[None]:
    """Inside the block dropout has the probability ``share``."""
    before = [(module, module.p) for module in model.modules() if isinstance(module, nn.Dropout)]
    for module, _ in before:
        module.p = share
    try:
        yield
    finally:
        for module, own in before:
            module.p = own


@contextmanager
def recomputing(model: PreTrainedModel) -> Iterator[None]:
    """Inside the block every layer recomputes its activations in the backward pass, also where upstream cannot."""
    # transformers renamed the methods between the versions we support
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    disable = getattr(model, "activation_checkpointing_disable", None) or model.gradient_checkpointing_disable
    enable({"use_reentrant": False})
    try:
        yield
    finally:
        disable()
