"""Rows of texts to be embedded, and what is said of their vectors: nearness to others, and whether pairs are found."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from qat.tasks.base import Encoded
from qat.tasks.tally import Tally

Vectors = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class EncodedTexts(Encoded):
    """Texts to be embedded.

    Attributes:
        pairs: by their places, texts and the ones to be found for them.
        wanted: the vectors that a float model gives, None where they are not known.
    """

    pairs: Sequence[tuple[int, int]] = ()
    wanted: Vectors | None = None

    @property
    def scored(self) -> int:
        """How many pairs there are, or texts where there are none."""
        return len(self.pairs) or len(self.features)

    def pick(self, index: Iterable[int]) -> Self:
        """Those texts, in that order, and the pairs that are among them."""
        rows = list(index)
        places = {row: place for place, row in enumerate(rows)}
        pairs = [(places[text], places[other]) for text, other in self.pairs if text in places and other in places]
        wanted = None if self.wanted is None else self.wanted[rows]
        return replace(self, features=[self.features[row] for row in rows], pairs=pairs, wanted=wanted)


def find_cosines(first: Vectors, second: Vectors) -> NDArray[np.float64]:
    """The cosine of each text's vectors, ``(texts,)``; of vectors a token the mean over its real tokens.

    Args:
        first: ``(texts, hidden)`` or ``(texts, tokens, hidden)``, not a number where there is no token.
        second: likewise; a vector of zeros is at a cosine of 0 from any other.

    >>> find_cosines(np.array([[3.0, 4.0], [0.0, 2.0]]), np.array([[3.0, 4.0], [1.0, 0.0]])).tolist()
    [1.0, 0.0]
    """
    products: NDArray[np.float64] = (_to_unit(first) * _to_unit(second)).sum(axis=-1)
    means: NDArray[np.float64] = np.nanmean(products, axis=1, keepdims=True) if products.ndim > 1 else products
    return means.reshape(len(first))


def list_pairs(vectors: Vectors, rows: EncodedTexts) -> Tally:
    """Of each pair both vectors, ``(pairs, hidden)``, and a number for the text to be found, ``(pairs,)``."""
    firsts, others = (np.array([pair[side] for pair in rows.pairs], np.int64) for side in (0, 1))
    names = np.array([_name_text(rows, int(other)) for other in others], np.int64)
    return {"texts": vectors[firsts], "others": vectors[others], "names": names}


def rank_pairs(pairs: Tally) -> NDArray[np.int64]:
    """For each pair how many texts are at least as near as the one to be found, ``(pairs,)``; 0 where it is nearest.

    The candidates are all texts to be found, the same text once; nearness is the cosine.

    Args:
        pairs: all of them, as ``list_pairs`` gives them.
    """
    _, chosen, places = np.unique(pairs["names"], return_index=True, return_inverse=True)
    candidates, texts = _to_unit(pairs["others"])[chosen], _to_unit(pairs["texts"])
    ranks = []
    for text, own in zip(texts, places, strict=True):
        nearness = candidates @ text
        ranks.append(int((nearness >= nearness[own]).sum()) - 1)
    return np.array(ranks, np.int64)


def _name_text(rows: EncodedTexts, place: int) -> int:
    """A number that two texts share only where they have the same tokens."""
    ids = np.array(rows.features[place]["input_ids"], np.int64)
    return int.from_bytes(hashlib.blake2b(ids.tobytes(), digest_size=8).digest(), "big", signed=True)


def _to_unit(vectors: Vectors) -> NDArray[np.float64]:
    wide = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=-1, keepdims=True)
    found: NDArray[np.float64] = wide / np.where(lengths == 0, 1.0, lengths)
    return found
