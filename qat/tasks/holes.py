"""Holes that a text was given with: its mask tokens, the likeliest tokens for each, and the text without them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from transformers import PreTrainedTokenizerBase

from qat.data import Rows
from qat.errors import DataError
from qat.tasks.base import IGNORED_LABEL, Asked, Kept, Outputs, Prediction
from qat.tasks.masking import Vocabulary

_TOKENS, _SCORES = "tokens", "scores"


def mark_holes(rows: Sequence[Mapping[str, list[int]]], tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
    """Encoded rows whose labels say where a token is to be found, -100 elsewhere.

    Raises:
        DataError: a tokenizer without a mask.
    """
    mask = Vocabulary.of(tokenizer).mask
    return [{**row, "labels": [each if each == mask else IGNORED_LABEL for each in row["input_ids"]]} for row in rows]


def require_holes(marked: Sequence[Mapping[str, Any]], rows: Rows, tokenizer: PreTrainedTokenizerBase) -> None:
    """Passes where every row has a token to be found.

    Raises:
        DataError: one has none.
    """
    for (number, _), row in zip(rows.numbered(), marked, strict=True):
        if all(label == IGNORED_LABEL for label in row["labels"]):
            raise DataError(
                f"{rows.source}, row {number}: the text has no {tokenizer.mask_token} among the tokens that a "
                f"row keeps: write {tokenizer.mask_token} where a word is to be found"
            )


def hold_likeliest(logits: NDArray[Any], labels: NDArray[np.integer], top: int) -> dict[str, Kept]:
    """For each hole its ``top`` likeliest tokens and their probabilities, ``(batch, tokens, top)``.

    Args:
        logits: ``(batch, tokens, vocabulary)``.
        labels: ``(batch, tokens)``, -100 where there is no hole.
        top: how many.

    >>> held = hold_likeliest(np.log([[[0.5, 0.2, 0.3], [1, 1, 1]]]), np.array([[9, -100]]), 2)
    >>> held["tokens"][0][0, 0].tolist(), held["scores"][0][0, 0].round(6).tolist(), held["tokens"][1].tolist()
    ([0.0, 2.0], [0.5, 0.3], [[[True], [False]]])
    """
    there = labels != IGNORED_LABEL
    chances = softmax(logits[there].astype(np.float64), axis=-1)
    order = np.argsort(-chances, axis=-1, kind="stable")[:, :top]
    tokens, scores = np.zeros((2, *labels.shape, order.shape[1]))
    tokens[there], scores[there] = order, np.take_along_axis(chances, order, axis=-1)
    return {_TOKENS: (tokens, there[..., None]), _SCORES: (scores, there[..., None])}


def fill_holes(outputs: Outputs, asked: Asked) -> list[Prediction]:
    """Of each row its ``masks``, with ``token`` and ``score`` each, and its ``text`` with the likeliest in place."""
    told: list[Prediction] = []
    tokenizer = asked.tokenizer
    for row, tokens, scores in zip(asked.encoded, outputs[_TOKENS], outputs[_SCORES], strict=True):
        labels: Any = row["labels"]
        filled: Any = list(row["input_ids"])  # type: ignore[arg-type]
        masks = []
        for place in np.flatnonzero(np.array(labels) != IGNORED_LABEL):
            filled[place] = int(tokens[place, 0])
            ranked = [
                {"token": str(tokenizer.decode([int(token)])).strip(), "score": float(score)}
                for token, score in zip(tokens[place], scores[place], strict=True)
            ]
            masks.append(ranked[0] if asked.top == 1 else {**ranked[0], "top": ranked})
        told.append({"masks": masks, "text": tokenizer.decode(filled, skip_special_tokens=True)})
    return told
