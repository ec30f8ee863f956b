"""Entities in IOB2 tags, and how many of them were found: the definition of CoNLL's evaluation and of seqeval.

Tjong Kim Sang and De Meulder 2003 (CoNLL-2003 shared task), section 2: an entity counts as found only when its type
and both ends are right. A tag ``I-x`` that continues nothing of its type begins an entity.
"""

from collections.abc import Iterable, Sequence

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


def score_entities(predicted: Iterable[Sequence[str]], right: Iterable[Sequence[str]]) -> dict[str, float]:
    """F1, precision and recall of all rows' entities together; each 0 where nothing was found.

    >>> score_entities([["B-a", "O", "B-b"]], [["B-a", "O", "B-c"]])
    {'f1': 0.5, 'precision': 0.5, 'recall': 0.5}
    """
    hits = said = there = 0
    for ours, truth in zip(predicted, right, strict=True):
        found, wanted = find_entities(ours), find_entities(truth)
        hits, said, there = hits + len(found & wanted), said + len(found), there + len(wanted)
    return {
        "f1": 2 * hits / (said + there) if hits else 0.0,
        "precision": hits / said if hits else 0.0,
        "recall": hits / there if hits else 0.0,
    }
