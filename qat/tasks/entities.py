"""Entities in IOB2 tags, and how many of them were found: the definition of CoNLL's evaluation and of seqeval.

Tjong Kim Sang and De Meulder 2003 (CoNLL-2003 shared task), section 2: an entity counts as found only when its type
and both ends are right. A tag ``I-x`` that continues nothing of its type begins an entity.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Self

from qat.tasks.base import Prediction
from qat.tasks.tally import Tally, count_sums, divide


@dataclass(frozen=True, slots=True)
class Words:
    """A text and where each of its words starts and ends in it, in characters."""

    text: str
    places: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, words: Sequence[str]) -> Self:
        """Words with a blank between them.

        >>> Words.of(["a", "bad", "idea"])
        Words(text='a bad idea', places=((0, 1), (2, 5), (6, 10)))
        """
        ends = list(accumulate(len(word) + 1 for word in words))
        return cls(
            " ".join(words), tuple((end - 1 - len(word), end - 1) for word, end in zip(words, ends, strict=True))
        )


Entity = tuple[str, int, int]
"""A type, and the places of the first and the last tag."""


def is_iob2(name: str) -> bool:
    """Whether a tag is ``O``, ``B-`` something or ``I-`` something.

    >>> is_iob2("O"), is_iob2("B-noun"), is_iob2("NOUN")
    (True, True, False)
    """
    return name == "O" or name[:2] in ("B-", "I-")


def find_entities(tags: Sequence[str]) -> set[Entity]:
    """The entities of one row.

    >>> sorted(find_entities(["B-verb", "I-verb", "O", "I-noun", "B-noun"]))
    [('noun', 3, 3), ('noun', 4, 4), ('verb', 0, 1)]
    """
    found: list[Entity] = []
    before = "O"
    for place, tag in enumerate(tags):
        if tag != "O" and (tag.startswith("B-") or before[2:] != tag[2:]):
            found.append((tag[2:], place, place))
        elif tag != "O":
            kind, first, _ = found.pop()
            found.append((kind, first, place))
        before = tag
    return set(found)


def list_words(tags: Sequence[str]) -> set[Entity]:
    """Every word as an entity of its own tag.

    >>> sorted(list_words(["NOUN", "VERB"]))
    [('NOUN', 0, 0), ('VERB', 1, 1)]
    """
    return {(tag, place, place) for place, tag in enumerate(tags)}


def locate_entities(entities: Iterable[Entity], scores: Sequence[float], words: Words) -> list[Prediction]:
    """The entities of a text with their places in it, in the order of the text.

    Args:
        entities: by the places of words.
        scores: the probability of each word's tag.
        words: the text.

    Returns:
        ``label``, ``text``, ``start`` and ``end`` in characters, and as ``score`` the mean of its words'.

    >>> words = Words("a bad idea", ((0, 1), (2, 5), (6, 10)))
    >>> locate_entities({("noun", 1, 2)}, [1.0, 0.5, 0.75], words)
    [{'label': 'noun', 'text': 'bad idea', 'start': 2, 'end': 10, 'score': 0.625}]
    """
    return [
        {
            "label": kind,
            "text": words.text[words.places[first][0] : words.places[last][1]],
            "start": words.places[first][0],
            "end": words.places[last][1],
            "score": sum(scores[first : last + 1]) / (last + 1 - first),
        }
        for kind, first, last in sorted(entities, key=lambda entity: entity[1])
    ]


def count_entities(rows: Iterable[tuple[Sequence[str], Sequence[str]]]) -> Tally:
    """How many entities are found, said and there, of the tags said and the right ones of every row."""
    hits = said = there = 0
    for ours, truth in rows:
        found, wanted = find_entities(ours), find_entities(truth)
        hits, said, there = hits + len(found & wanted), said + len(found), there + len(wanted)
    return count_sums(hits=hits, said=said, there=there)


def conclude_entities(tally: Tally) -> dict[str, float]:
    """F1, precision and recall of all entities together; each 0 where nothing was found.

    >>> conclude_entities(count_entities([(["B-a", "O", "B-b"], ["B-a", "O", "B-c"])]))
    {'f1': 0.5, 'precision': 0.5, 'recall': 0.5}
    """
    both = float(tally["said"] + tally["there"])
    return {
        "f1": 2 * float(tally["hits"]) / both if both else 0.0,
        "precision": divide(tally, "hits", "said"),
        "recall": divide(tally, "hits", "there"),
    }
