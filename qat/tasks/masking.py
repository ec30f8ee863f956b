"""Masked words: which tokens of a row are hidden, and what is kept of the answers to them.

A row's masks are drawn when it is encoded, by its own tokens: the same text is masked alike in every run, wherever it
stands, so that two models are scored on the same holes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from transformers import PreTrainedTokenizerBase

from qat.data import Rows
from qat.errors import DataError
from qat.tasks.base import IGNORED_LABEL, Encoded, Feature, Kept, Outputs
from qat.tasks.tally import Tally, count_sums, divide

_SHARE = 0.15
_SEED = 0
_CHOICES = ("mask", "random", "same")
_CHANCES = (0.8, 0.1, 0.1)
"""Devlin et al. 2019 (arXiv 1810.04805), section 3.1: of a row's tokens 15 % are to be found; of those 80 % are hidden,
10 % replaced by a random token, and 10 % left as they are."""

_SAID, _LIKELIHOOD = "said", "log_likelihood"


@dataclass(frozen=True, slots=True)
class EncodedMasks(Encoded):
    """Rows with tokens to be found."""

    @property
    def scored(self) -> int:
        """How many tokens are to be found."""
        return sum(len(_find_labels(feature)) for feature in self.features)


def _find_labels(row: Feature) -> NDArray[np.int64]:
    """The tokens to be found in a row."""
    labels = np.array(row["labels"], dtype=np.int64)
    found: NDArray[np.int64] = labels[labels != IGNORED_LABEL]
    return found


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What masking needs to know of a tokenizer: its mask, and the tokens that stand for words."""

    mask: int
    words: NDArray[np.int64]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Self:
        """A tokenizer's.

        Raises:
            DataError: it has no mask.
        """
        if tokenizer.mask_token_id is None:
            raise DataError(
                f"{type(tokenizer).__name__} has no mask token: give the tokenizer of a checkpoint that was pretrained "
                "on masked words, or set its mask_token"
            )
        every = np.arange(len(tokenizer), dtype=np.int64)
        return cls(int(tokenizer.mask_token_id), np.setdiff1d(every, tokenizer.all_special_ids))


def mask_tokens(ids: Sequence[int], vocabulary: Vocabulary) -> tuple[list[int], list[int]]:
    """A row's token ids with some of them hidden, and its labels: those tokens, and -100 elsewhere.

    Of a row's words 15 %, but at least one, is to be found; none where the row has no word.

    >>> mask_tokens([2, 7, 8, 9, 3], Vocabulary(mask=4, words=np.arange(5, 20)))
    ([2, 7, 8, 4, 3], [-100, -100, -100, 9, -100])
    """
    chance = np.random.default_rng([_SEED, *ids])
    hidden, labels = list(ids), [IGNORED_LABEL] * len(ids)
    places = np.flatnonzero(np.isin(ids, vocabulary.words))
    count = min(len(places), max(1, round(_SHARE * len(places))))
    for place in map(int, chance.choice(places, count, replace=False) if count else ()):
        labels[place] = ids[place]
        match chance.choice(_CHOICES, p=_CHANCES):
            case "mask":
                hidden[place] = vocabulary.mask
            case "random":
                hidden[place] = int(chance.choice(vocabulary.words))
    return hidden, labels


def mask_rows(
    rows: Iterable[dict[str, list[int]]], tokenizer: PreTrainedTokenizerBase, *, given: Rows
) -> list[dict[str, list[int]]]:
    """Encoded rows with tokens to be found; ``given`` is what they were encoded from.

    Raises:
        DataError: a row without a word, or a tokenizer without a mask.
    """
    vocabulary = Vocabulary.of(tokenizer)
    found = []
    for number, row in enumerate(rows, start=given.first):
        hidden, labels = mask_tokens(row["input_ids"], vocabulary)
        if all(label == IGNORED_LABEL for label in labels):
            raise DataError(
                f"{given.source}, row {number}: the text has no token to hide; expected at least one known word"
            )
        found.append({**row, "input_ids": hidden, "labels": labels})
    return found


def judge_tokens(logits: NDArray[Any], labels: NDArray[np.integer]) -> dict[str, Kept]:
    """For each token to be found, which one was said, and the log-likelihood of the right one.

    All logits of a validation set would be its tokens times the vocabulary.

    Args:
        logits: ``(batch, tokens, vocabulary)``.
        labels: ``(batch, tokens)``, -100 where nothing is to be found.

    >>> found = judge_tokens(np.array([[[0.0, 2.0], [0.0, 0.0]]]), np.array([[1, -100]]))
    >>> found["said"][0].tolist(), found["log_likelihood"][0].round(4).tolist(), found["said"][1].tolist()
    ([[1.0, 0.0]], [[-0.1269, 0.0]], [[True, False]])
    """
    there = labels != IGNORED_LABEL
    wanted = logits[there].astype(np.float64)
    right = np.take_along_axis(wanted, labels[there][:, None], axis=-1)[:, 0]
    said, likelihood = np.zeros((2, *labels.shape))
    said[there], likelihood[there] = wanted.argmax(axis=-1), right - logsumexp(wanted, axis=-1)
    return {_SAID: (said, there), _LIKELIHOOD: (likelihood, there)}


def count_tokens(outputs: Outputs, right: NDArray[np.integer]) -> Tally:
    """Tokens that were found, all of them, and the sum of the right ones' log-likelihoods.

    Args:
        outputs: of ``judge_tokens``, all rows'.
        right: the tokens to be found, in order.
    """
    likelihood = outputs[_LIKELIHOOD].astype(np.float64)
    there = np.isfinite(likelihood)
    hits = outputs[_SAID][there] == right
    return count_sums(found=float(hits.sum()), tokens=len(right), likelihood=float(likelihood[there].sum()))


def conclude_tokens(tally: Tally) -> dict[str, float]:
    """The geometric mean of the probabilities the right tokens were given, its inverse, and the share of right answers.

    The first rises as the model improves and is the headline: 99 % of it is a perplexity 1.01 times as high.

    >>> outputs = {"said": np.array([[np.nan, 7, 9]]), "log_likelihood": np.log([[np.nan, 0.5, 0.125]])}
    >>> found = conclude_tokens(count_tokens(outputs, np.array([7, 8])))
    >>> {name: round(value, 6) for name, value in found.items()}
    {'token_probability': 0.25, 'perplexity': 4.0, 'accuracy': 0.5}
    """
    mean = divide(tally, "likelihood", "tokens")
    return {
        "token_probability": float(np.exp(mean)),
        "perplexity": float(np.exp(-mean)),
        "accuracy": divide(tally, "found", "tokens"),
    }


def find_masked(rows: Encoded) -> NDArray[np.int64]:
    """The tokens to be found in all rows, in order."""
    return np.concatenate([_find_labels(row) for row in rows])


def agree_on_tokens(first: Outputs, second: Outputs) -> NDArray[np.bool_]:
    """For each token to be found whether both say the same one."""
    there = np.isfinite(first[_SAID])
    same: NDArray[np.bool_] = first[_SAID][there] == second[_SAID][there]
    return same
