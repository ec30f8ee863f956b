"""Token classification: a tag for each word; scored by the F1 of the entities that the tags spell."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from transformers import AutoModelForTokenClassification, PreTrainedConfig, PreTrainedTokenizerBase

from qat.data import Rows
from qat.errors import DataError
from qat.tasks.base import IGNORED_LABEL, Asked, Columns, Encoded, Feature, Outputs, Prediction, Task
from qat.tasks.entities import (
    Words,
    conclude_entities,
    count_entities,
    find_entities,
    is_iob2,
    list_words,
    locate_entities,
)
from qat.tasks.labels import describe_value, label_numbers, name_labels, read_label
from qat.tasks.tally import Tally, count_sums, divide
from qat.tasks.texts import read_text, resolve_max_length


@dataclass(frozen=True, slots=True)
class EncodedTags(Encoded):
    """Words as token ids.

    Attributes:
        names: of the checkpoint's tags, in the order of their numbers.
    """

    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EncodedWords(Encoded):
    """Words as token ids, to be told again with their places.

    Attributes:
        words: of each row, those that its tokens hold whole or in part.
        firsts: of each row, the place of each word's first token.
    """

    words: Sequence[Words] = ()
    firsts: Sequence[NDArray[np.int64]] = ()


class TokenClassification(Task):
    """One tag a word, which its first token answers; the other tokens are labelled -100 and count nowhere.

    Tags in the data are names of the checkpoint's ``label2id``, or its integers. Words that are cut off for length are
    not scored. Tags that are not IOB2 spell no entities: then the share of right tags is the score.
    """

    name = "token-classification"
    columns = Columns(required=("tokens",), optional=(), label=("tags",))
    auto_class = AutoModelForTokenClassification
    token_outputs = ("logits",)

    def encode(
        self,
        rows: Rows,
        *,
        tokenizer: PreTrainedTokenizerBase,
        config: PreTrainedConfig,
        max_length: int | None = None,
        require_labels: bool = True,
    ) -> EncodedTags:
        """The words as token ids; what is too long loses its end.

        Arguments and errors as ``Task.encode``; also a DataError for rows with not as many tags as words.
        """
        self.check_columns(rows, require_labels=require_labels)
        _require_fast(tokenizer)
        words, known = _read_words(rows), label_numbers(config)
        tags = _read_tags(rows, words, config) if "tags" in rows.columns else None
        length = resolve_max_length(max_length, tokenizer=tokenizer, config=config, pair=False)
        tokens = tokenizer(
            words,
            is_split_into_words=True,
            truncation=True,
            max_length=length,
            return_token_type_ids=False,
            return_attention_mask=True,
        )
        features: list[Feature] = []
        cut = 0
        for row, given in enumerate(words):
            owners = tokens.word_ids(row)
            entries = {name: values[row] for name, values in tokens.items()}
            if tags is not None:
                entries["labels"] = _label_first(owners, tags[row])
            features.append(entries)
            cut += len(given) > 1 + max((owner for owner in owners if owner is not None), default=-1)
        names = tuple(sorted(known, key=known.__getitem__))
        return EncodedTags(features, length, cut, rows.source, names=names)

    def ask(
        self,
        rows: Rows,
        *,
        tokenizer: PreTrainedTokenizerBase,
        config: PreTrainedConfig,
        max_length: int | None = None,
    ) -> EncodedWords:
        """The words as token ids: those of ``tokens``, or of a ``text`` those that the tokenizer finds in it.

        Arguments and errors as ``Task.ask``.
        """
        _require_fast(tokenizer)
        written = "tokens" not in rows.columns and "text" in rows.columns
        rows.require_filled(["text"])
        if not written:
            self.check_columns(rows, require_labels=False)
        given: list[Any] = read_text(rows, "text") if written else _read_words(rows)
        length = resolve_max_length(max_length, tokenizer=tokenizer, config=config, pair=False)
        tokens = tokenizer(
            given,
            is_split_into_words=not written,
            truncation=True,
            max_length=length,
            return_token_type_ids=False,
            return_attention_mask=True,
            return_offsets_mapping=True,
        )
        offsets = tokens.pop("offset_mapping")
        firsts, words = [], []
        for row, each in enumerate(given):
            owners = tokens.word_ids(row)
            firsts.append(_find_firsts(owners))
            words.append(_find_words(each, owners, offsets[row]) if written else Words.of(each))
        features = [{name: values[row] for name, values in tokens.items()} for row in range(len(given))]
        cut = sum(bool(each.overflowing) for each in tokens.encodings or [])
        return EncodedWords(features, length, cut, rows.source, words=words, firsts=firsts)

    def explain(self, outputs: Outputs, asked: Asked) -> list[Prediction]:
        """Of each text its ``entities`` with ``label``, ``text``, ``start`` and ``end`` in characters, and ``score``.

        Tags that are not IOB2 make every word one. Of words that were given one by one the places are those in the
        words with a blank between them.
        """
        rows = asked.encoded
        assert isinstance(rows, EncodedWords), "the rows of token classification come from its own ask"
        names = name_labels(asked.config, outputs["logits"].shape[-1])
        find = find_entities if all(map(is_iob2, names)) else list_words
        told = []
        for logits, words, firsts in zip(outputs["logits"], rows.words, rows.firsts, strict=True):
            chances = softmax(logits[firsts].astype(np.float64), axis=-1)
            tags = [names[place] for place in chances.argmax(axis=-1)]
            told.append({"entities": locate_entities(find(tags), chances.max(axis=-1).tolist(), words)})
        return told

    def count(self, outputs: Outputs, rows: Encoded) -> Tally:
        """Words whose tag is right, all words, and of IOB2 tags the entities found; logits ``(rows, tokens, tags)``."""
        names = np.array(_names_of(rows))
        said, right = _read_predictions(outputs, rows), [_scored(rows, row) for row in range(len(rows))]
        labels = [np.array(rows[row]["labels"])[places] for row, places in enumerate(right)]
        hits = np.concatenate(said) == np.concatenate(labels)
        words = count_sums(right=float(hits.sum()), n=len(hits))
        if not all(map(is_iob2, names)):
            return words
        pairs = ((names[ours].tolist(), names[truth].tolist()) for ours, truth in zip(said, labels, strict=True))
        return {**words, **count_entities(pairs)}

    def conclude(self, tally: Tally, rows: Encoded) -> dict[str, float]:
        """F1, precision and recall of the entities, and the share of right tags."""
        accuracy = {"accuracy": divide(tally, "right")}
        return conclude_entities(tally) | accuracy if all(map(is_iob2, _names_of(rows))) else accuracy

    def agree(self, first: Outputs, second: Outputs, rows: Encoded) -> NDArray[np.bool_]:
        """For each word that has a tag whether both give it the same one."""
        ours, theirs = (np.concatenate(_read_predictions(outputs, rows)) for outputs in (first, second))
        same: NDArray[np.bool_] = ours == theirs
        return same


def _require_fast(tokenizer: PreTrainedTokenizerBase) -> None:
    if not tokenizer.is_fast:
        raise DataError(f"{type(tokenizer).__name__} does not say where its words lie: give a fast tokenizer")


def _find_firsts(owners: Sequence[int | None]) -> NDArray[np.int64]:
    """The places of the words' first tokens.

    >>> _find_firsts([None, 0, 0, 1, None]).tolist()
    [1, 3]
    """
    pairs = enumerate(zip([None, *owners], owners, strict=False))
    return np.array([place for place, (before, owner) in pairs if owner not in (None, before)], np.int64)


def _find_words(text: str, owners: Sequence[int | None], offsets: Sequence[tuple[int, int]]) -> Words:
    """Where the words that the tokens hold lie in their text."""
    places: dict[int, tuple[int, int]] = {}
    for owner, (start, end) in zip(owners, offsets, strict=True):
        if owner is not None:
            places[owner] = (places.get(owner, (start, end))[0], end)
    return Words(text, tuple(places.values()))


def _names_of(rows: Encoded) -> tuple[str, ...]:
    assert isinstance(rows, EncodedTags), "the rows of token classification come from its own encode"
    return rows.names


def _scored(rows: Encoded, row: int) -> NDArray[np.int64]:
    """The places of a row's tokens that have a tag."""
    return np.flatnonzero(np.array(rows[row]["labels"]) != IGNORED_LABEL)


def _read_predictions(outputs: Outputs, rows: Encoded) -> list[NDArray[np.int64]]:
    """The tags given to each row's words."""
    rows.require("labels")
    return [logits[_scored(rows, row)].argmax(axis=-1) for row, logits in enumerate(outputs["logits"])]


def _label_first(owners: Sequence[int | None], tags: Sequence[int]) -> list[int]:
    """The tag of a word at its first token, what the loss ignores elsewhere.

    >>> _label_first([None, 0, 0, 1, None], [7, 8])
    [-100, 7, -100, 8, -100]
    """
    return [
        IGNORED_LABEL if owner is None or owner == before else tags[owner]
        for before, owner in zip([None, *owners], owners, strict=False)
    ]


def _read_words(rows: Rows) -> list[list[str]]:
    found = []
    for number, row in rows.numbered():
        value = row.get("tokens")
        if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
            place = f"{rows.source}, row {number}"
            raise DataError(f"{place}: column 'tokens' {describe_value(value)}; expected a list of words")
        if not value:
            raise DataError(f"{rows.source}, row {number}: column 'tokens' has no words; expected at least one")
        found.append(list(value))
    return found


def _read_tags(rows: Rows, words: Sequence[Sequence[str]], config: PreTrainedConfig) -> list[list[int]]:
    known = label_numbers(config)
    found = []
    for (number, row), given in zip(rows.numbered(), words, strict=True):
        value, place = row.get("tags"), f"{rows.source}, row {number}"
        if not isinstance(value, list | tuple):
            raise DataError(f"{place}: column 'tags' {describe_value(value)}; expected a list, one tag a word")
        if len(value) != len(given):
            raise DataError(f"{place}: {len(given)} tokens and {len(value)} tags; expected one tag a token")
        found.append([read_label(each, known, place=place) for each in value])
    return found
