"""Embeddings of texts: a base model's tokens made one vector a text, inside the model and so in its graph.

The setting lies in the configuration, as ``embedding``; a forward hook adds the vectors to what the model answers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils.generic import ModelOutput

from qat.recipe import validate_settings

Mode = Literal["none", "cls", "mean"]
FIELD = "sentence_embedding"
"""What the vectors are called, as sentence-transformers calls them."""

_KEY = "embedding"
_SMALLEST = 2.0**-14
"""The smallest normal number of FP16."""


class Pooling(BaseModel):
    """How the vectors of a text's tokens become one, frozen.

    Attributes:
        pooling: ``none`` leaves them, ``cls`` takes the first token's, ``mean`` the mean of the real tokens'.
        normalize: whether that is divided by its length.
        longest: tokens a text keeps unless told otherwise; None for the most the checkpoint takes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    pooling: Mode = "none"
    normalize: bool = False
    longest: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _needs_one_vector(self) -> Self:
        if self.normalize and self.pooling == "none":
            raise ValueError("task.normalize needs one vector a text: add --set task.pooling=mean, or cls")
        return self

    @property
    def output(self) -> str:
        """The field of the model's answer that holds its vectors."""
        return "last_hidden_state" if self.pooling == "none" else FIELD

    def pool(self, states: Tensor, mask: Tensor | None) -> Tensor:
        """The vectors of texts, ``(batch, hidden)``.

        Args:
            states: of their tokens, ``(batch, tokens, hidden)``.
            mask: 1 for real tokens, ``(batch, tokens)``; None where all are. Padding counts nowhere.

        No sum is larger than FP16 holds: shares of tokens are added, and a vector is divided by its largest entry
        before its length is taken.

        >>> import torch
        >>> states = torch.tensor([[[3.0, 0.0], [3.0, 8.0], [9.0, 9.0]]])
        >>> Pooling(pooling="mean", normalize=True).pool(states, torch.tensor([[1, 1, 0]])).tolist()
        [[0.6000000238418579, 0.800000011920929]]
        """
        if self.pooling == "cls":
            pooled = states[:, 0]
        elif mask is None:
            pooled = states.mean(dim=1)
        else:
            real = mask.to(states.dtype)
            share = real / real.sum(dim=1, keepdim=True).clamp(min=1)
            pooled = (states * share[..., None]).sum(dim=1)
        if not self.normalize:
            return pooled
        bounded = pooled / pooled.abs().amax(dim=-1, keepdim=True).clamp(min=_SMALLEST)
        return bounded / bounded.square().sum(dim=-1, keepdim=True).clamp(min=_SMALLEST).sqrt()


@dataclass
class EmbeddingOutput(ModelOutput):
    """What a model with pooling answers: the vectors of the texts, and what its float original answers."""

    sentence_embedding: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass(frozen=True, slots=True)
class _Pools:
    """The forward hook."""

    pooling: Pooling

    def __call__(self, model: nn.Module, given: tuple[Any, ...], named: dict[str, Any], answer: Any) -> Any:
        if not isinstance(answer, Mapping) or "last_hidden_state" not in answer:
            return answer  # a tuple (return_dict=False), or a head's
        mask = named.get("attention_mask", given[1] if len(given) > 1 else None)
        return EmbeddingOutput(
            sentence_embedding=self.pooling.pool(answer["last_hidden_state"], mask),
            **{name: answer.get(name) for name in ("last_hidden_state", "hidden_states", "attentions")},
        )


def set_pooling(model: PreTrainedModel, pooling: Pooling) -> None:
    """Makes ``model`` answer with the vectors of texts, in place, and its configuration remember it."""
    hooks: dict[int, Any] = model._forward_hooks
    for handle in [handle for handle, hook in hooks.items() if isinstance(hook, _Pools)]:
        del hooks[handle]
        model._forward_hooks_with_kwargs.pop(handle, None)
    if pooling.pooling != "none":
        model.register_forward_hook(_Pools(pooling), with_kwargs=True)
    remember_pooling(model.config, pooling)


def remember_pooling(config: PreTrainedConfig, pooling: Pooling) -> None:
    """Writes the setting into a configuration."""
    setattr(config, _KEY, pooling.model_dump())


def read_pooling(config: PreTrainedConfig) -> Pooling | None:
    """What a configuration remembers, None where nothing.

    Raises:
        RecipeError: values that are none of ours.
    """
    stored = getattr(config, _KEY, None)
    return None if stored is None else validate_settings(Pooling, stored, where=f"config.json, {_KEY}")
