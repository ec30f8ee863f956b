"""Attention scores of relative positions, which transformers 5 no longer computes (``position_embedding_type``).

``relative_key`` adds to the score of query i and key j the product of q_i with a learned embedding of the distance
i - j (Shaw et al. 2018, arXiv 1803.02155, equation 5); ``relative_key_query`` adds the product of k_j with it as well
(Huang et al. 2020, arXiv 2009.13658, method 4). Absolute positions are then not added to the embeddings.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, matmul, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from qat.errors import CheckpointError, suggest

ABSOLUTE = "absolute"
RELATIVE = ("relative_key", "relative_key_query")
RELATIVE_ATTENTION = "qdq-relative"
"""The attention of a float model with relative positions."""

DISTANCES = "the products with distance embeddings are added to the scores in float"


class RelativePositions(nn.Module):
    """What an attention module with relative positions has beside its base class.

    ``scaled_distances`` says whether the division by the square root of the head size comes after the distances are
    added (BERT) or before (ALBERT).
    """

    scaled_distances: ClassVar[bool]

    config: Any
    distance_embedding: nn.Embedding
    """The embeddings of the distances from ``1 - positions`` to ``positions - 1``."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the base class's.

        Raises:
            CheckpointError: an attention was chosen that knows no distances.
        """
        chosen = self.config._attn_implementation
        if chosen not in (RELATIVE_ATTENTION, "qdq"):
            raise CheckpointError(
                f"attention implementation {chosen!r} would leave out the relative positions of this checkpoint, "
                f"'{RELATIVE_ATTENTION}' expected: do not call set_attn_implementation on it"
            )
        return super().forward(*args, **kwargs)

    def add_distances(self, query: Tensor, key: Tensor, scaling: float, attention_mask: Tensor | None) -> Tensor:
        """What is added to the scaled scores: the distances' scores and the mask, ``(batch, heads, tokens, tokens)``.

        ``query`` and ``key`` are ``(batch, heads, tokens, head size)``.
        """
        factor = scaling if self.scaled_distances else 1.0
        scores = distance_scores(query * factor, self.distance_embedding.weight)
        if self.config.position_embedding_type == "relative_key_query":
            flipped = self.distance_embedding.weight.flip(0)
            scores = scores + distance_scores(key * factor, flipped).transpose(2, 3)
        return scores if attention_mask is None else scores + attention_mask


class NoPositions(nn.Embedding):
    """The table of absolute positions of a model that does not add them; it is kept, and answers zero."""

    def forward(self, position_ids: Tensor) -> Tensor:
        """A zero that any embedding can be added to."""
        return torch.tensor(0.0, dtype=self.weight.dtype)


def distance_scores(x: Tensor, distances: Tensor) -> Tensor:
    """The product of ``x[i]`` with the embedding of the distance i - j, for every i and j.

    One product with all distances there are, whose rows are then shifted against each other (Transformer-XL, arXiv
    1901.02860, appendix B), so that nothing of the size ``tokens x tokens x head size`` is made.

    Args:
        x: ``(batch, heads, tokens, head size)``.
        distances: embeddings of ``1 - positions`` to ``positions - 1``, ``(2 positions - 1, head size)``.

    >>> x, distances = torch.tensor([[[[1.0], [2.0]]]]), torch.tensor([[10.0], [20.0], [30.0]])
    >>> distance_scores(x, distances).tolist()  # rows i, columns j: distances 0, -1 and 1, 0
    [[[[20.0, 10.0], [60.0, 40.0]]]]
    """
    batch, heads, tokens, _ = x.shape
    positions = (distances.shape[0] + 1) // 2
    near = distances.flip(0)[positions - tokens : positions + tokens - 1]  # of tokens - 1 down to 1 - tokens
    scores = functional.pad(matmul(x, near.transpose(0, 1)), (0, 1))
    rows = scores.reshape(batch, heads, 2 * tokens * tokens)[..., tokens - 1 : tokens - 1 + tokens * (2 * tokens - 1)]
    return rows.reshape(batch, heads, tokens, 2 * tokens - 1)[..., :tokens]


def relative_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Transformers' eager attention with the scores of distances: context and probabilities, as it returns them."""
    assert isinstance(module, RelativePositions)
    scores = matmul(query, key.transpose(2, 3)) * scaling
    probs = functional.softmax(scores + module.add_distances(query, key, scaling, attention_mask), dim=-1)
    probs = functional.dropout(probs, p=dropout, training=module.training)
    return matmul(probs, value).transpose(1, 2).contiguous(), probs


def has_relative_positions(config: PreTrainedConfig) -> bool:
    """Whether a configuration asks for them.

    Raises:
        CheckpointError: a type of positions there is not.
    """
    kind = getattr(config, "position_embedding_type", None) or ABSOLUTE
    if kind not in (ABSOLUTE, *RELATIVE):
        raise CheckpointError(
            f"position_embedding_type {kind!r} in config.json is unknown: {suggest(str(kind), (ABSOLUTE, *RELATIVE))}"
        )
    return kind in RELATIVE


def install_relative_positions(
    model: PreTrainedModel, relative_classes: dict[type[nn.Module], type[RelativePositions]]
) -> None:
    """``model`` with relative positions, in place, before its weights are read.

    Args:
        model: a float model, on any device.
        relative_classes: the float attention classes of its family, each with its relative one.

    Raises:
        CheckpointError: the family has none.
    """
    config = model.config
    if not relative_classes:
        raise CheckpointError(
            f"relative positions of the family '{config.model_type}' are not supported (position_embedding_type is "
            f"{config.position_embedding_type!r} in config.json): BERT and ALBERT have them"
        )
    for module in list(model.modules()):
        if type(module) in relative_classes:
            width: Any = module.attention_head_size
            with torch.device(model.device):
                embedding = nn.Embedding(2 * config.max_position_embeddings - 1, width)
            module.add_module("distance_embedding", embedding)
            module.__class__ = relative_classes[type(module)]
        table = module._modules.get("position_embeddings")
        if type(table) is nn.Embedding:
            table.__class__ = NoPositions
            table.weight.requires_grad = False  # data-parallel training waits for every gradient
    for module in model.modules():
        inner: Any = getattr(module, "config", None)
        if inner is not None:
            inner._attn_implementation = RELATIVE_ATTENTION


AttentionInterface.register(RELATIVE_ATTENTION, relative_attention)
AttentionMaskInterface.register(RELATIVE_ATTENTION, ALL_MASK_ATTENTION_FUNCTIONS["eager"])
