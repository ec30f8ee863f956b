"""Masking: which tokens are hidden, how, and that it is the same in every run; and what is kept of the answers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from qat.data import Rows
from qat.errors import DataError
from qat.tasks.base import IGNORED_LABEL
from qat.tasks.masking import (
    EncodedMasks,
    Vocabulary,
    agree_on_tokens,
    conclude_tokens,
    count_tokens,
    find_masked,
    judge_tokens,
    mask_rows,
    mask_tokens,
)
from tests.tiny import tiny_tokenizer
from tests.tolerances import LIKELIHOOD, MASKED_SHARES

WORDS = Vocabulary.of(tiny_tokenizer())
ids = st.lists(st.integers(0, 194), min_size=1, max_size=60)


def test_the_vocabulary_is_every_token_but_the_special_ones() -> None:
    assert WORDS.mask == 4
    assert WORDS.words.tolist() == list(range(5, 195))


@given(ids)
def test_labels_are_the_tokens_themselves_and_only_words_are_hidden(row: list[int]) -> None:
    hidden, labels = mask_tokens(row, WORDS)
    assert (hidden, labels) == mask_tokens(row, WORDS), "the same row is masked alike in every run"
    words = sum(each >= 5 for each in row)
    found = [place for place, label in enumerate(labels) if label != IGNORED_LABEL]
    assert len(found) == min(words, max(1, round(0.15 * words)))
    for place, (before, after, label) in enumerate(zip(row, hidden, labels, strict=True)):
        assert label == (before if place in found else IGNORED_LABEL)
        assert after == before or (place in found and before >= 5 and (after == 4 or after >= 5))


def test_of_the_tokens_to_find_most_are_hidden_and_some_are_other_words() -> None:
    chance = np.random.default_rng(0)
    kinds = {"mask": 0, "random": 0, "same": 0}
    for _ in range(300):
        row = chance.integers(5, 195, 40).tolist()
        hidden, labels = mask_tokens(row, WORDS)
        for after, label in zip(hidden, labels, strict=True):
            if label != IGNORED_LABEL:
                kinds["mask" if after == 4 else "same" if after == label else "random"] += 1
    total = sum(kinds.values())
    assert total == 300 * 6
    assert {name: count / total for name, count in kinds.items()} == pytest.approx(
        {"mask": 0.8, "random": 0.1, "same": 0.1}, abs=MASKED_SHARES.value
    )


def test_every_place_is_as_likely() -> None:
    places = np.zeros(20)
    for seed in range(600):
        row = np.random.default_rng(seed).integers(5, 195, 20).tolist()
        places += np.array(mask_tokens(row, WORDS)[1]) != IGNORED_LABEL
    assert places / 600 == pytest.approx(np.full(20, 0.15), abs=2 * MASKED_SHARES.value)


def test_a_row_without_a_word_is_refused() -> None:
    rows = [{"input_ids": [2, 5, 3]}, {"input_ids": [2, 1, 3]}]
    with pytest.raises(DataError) as caught:
        mask_rows(rows, tiny_tokenizer(), given=Rows([], "my rows"))
    assert str(caught.value) == "my rows, row 2: the text has no token to hide; expected at least one known word"


def test_a_tokenizer_without_a_mask_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.mask_token = None
    with pytest.raises(DataError) as caught:
        mask_rows([{"input_ids": [2, 4, 3]}], tokenizer, given=Rows([], "my rows"))
    assert str(caught.value) == (
        "BertTokenizer has no mask token: give the tokenizer of a checkpoint that was pretrained on masked words, or "
        "set its mask_token"
    )


def test_what_is_kept_scores_as_torch_does() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 7, 50, generator=generator) * 4
    labels = torch.full((3, 7), IGNORED_LABEL)
    labels[0, 1], labels[0, 5], labels[1, 2], labels[2, 6] = 3, 9, 49, int(logits[2, 6].argmax())
    kept = judge_tokens(logits.numpy(), labels.numpy())
    outputs = {name: np.where(there, values, np.nan) for name, (values, there) in kept.items()}
    rows = EncodedMasks(
        [{"input_ids": [0] * 7, "labels": row} for row in labels.tolist()], max_length=8, truncated=0, source="rows"
    )
    loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    found = conclude_tokens(count_tokens(outputs, find_masked(rows)))
    assert list(found) == ["token_probability", "perplexity", "accuracy"]
    assert found["token_probability"] == pytest.approx(1 / found["perplexity"])
    assert found["perplexity"] == pytest.approx(math.exp(float(loss)), rel=LIKELIHOOD.value)
    right = (logits.argmax(dim=-1) == labels)[labels != IGNORED_LABEL]
    assert found["accuracy"] == float(right.float().mean()) >= 0.25
    assert rows.scored == 4
    assert all(values.nbytes <= 3 * 7 * 8 for values, _ in kept.values()), "nothing is as large as a vocabulary"


def test_two_models_agree_where_they_say_the_same_word() -> None:
    first = {"said": np.array([[np.nan, 7.0], [3.0, 4.0]]), "log_likelihood": np.array([[np.nan, -1.0], [-1.0, -2.0]])}
    second = {"said": np.array([[np.nan, 7.0], [3.0, 9.0]]), "log_likelihood": np.zeros((2, 2))}
    assert agree_on_tokens(first, second).tolist() == [True, True, False]
