"""Token classification: labels on first tokens, entities by CoNLL's definition, and what is refused."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qat.batches import Collator
from qat.data import Rows
from qat.errors import DataError
from qat.tasks import find_task
from qat.tasks.base import IGNORED_LABEL, Encoded
from qat.tasks.entities import conclude_entities, count_entities, find_entities
from tests.test_qat.test_tasks import bert_config
from tests.tiny import tiny_tokenizer
from tests.tiny_heads import TAGS, encode_head, head_model

TASK = find_task("token-classification")
CONFIG = bert_config(id2label=dict(enumerate(TAGS)), label2id={name: number for number, name in enumerate(TAGS)})
GOOD: dict[str, object] = {"tokens": ["ba", "baba", "be"], "tags": ["O", "B-noun", "I-noun"]}

tag_rows = st.lists(st.sampled_from(TAGS), min_size=1, max_size=8)


def encode(*records: dict[str, object], config: Any = CONFIG, **settings: Any) -> Encoded:
    return TASK.encode(Rows(list(records), source="my rows"), tokenizer=tiny_tokenizer(), config=config, **settings)


def refusal(*records: dict[str, object]) -> str:
    with pytest.raises(DataError) as caught:
        encode(*records)
    return str(caught.value)


def answer_with(rows: Encoded, tags: list[list[str]]) -> dict[str, np.ndarray[Any, Any]]:
    """Logits that give those tags to each row's words, something else to their other tokens, nothing to padding."""
    logits = np.full((len(rows), max(rows.lengths), len(TAGS)), np.nan, np.float32)
    for row, names in enumerate(tags):
        logits[row, : rows.lengths[row]] = np.eye(len(TAGS))[TAGS.index("B-verb")]
        for place, name in zip(np.flatnonzero(np.array(rows[row]["labels"]) != IGNORED_LABEL), names, strict=True):
            logits[row, place] = np.eye(len(TAGS))[TAGS.index(name)]
    return {"logits": logits}


def test_the_first_token_of_a_word_has_its_tag() -> None:
    encoded = encode(GOOD)
    tokens = tiny_tokenizer()(GOOD["tokens"], is_split_into_words=True)
    assert encoded[0]["input_ids"] == tokens["input_ids"]
    assert encoded[0]["labels"] == [-100, 0, 1, -100, 2, -100]
    assert tokens.word_ids() == [None, 0, 1, 1, 2, None]


def test_words_that_are_cut_off_have_no_label() -> None:
    encoded = encode(GOOD, GOOD | {"tokens": ["ba"], "tags": ["O"]}, max_length=4)
    assert encoded[0]["labels"] == [-100, 0, 1, -100]
    assert encoded.truncated == 1


def test_tags_are_padded_with_what_the_loss_ignores() -> None:
    batch = Collator(pad_token_id=0)(list(encode(GOOD, {"tokens": ["ba"], "tags": [3]})))
    assert batch["labels"].tolist() == [[-100, 0, 1, -100, 2, -100], [-100, 3, -100, -100, -100, -100]]


@pytest.mark.parametrize(
    ("tags", "entities"),
    [
        (["O", "O"], set()),
        (["B-a", "I-a", "I-a"], {("a", 0, 2)}),
        (["B-a", "B-a"], {("a", 0, 0), ("a", 1, 1)}),
        (["B-a", "O", "I-a"], {("a", 0, 0), ("a", 2, 2)}),
        (["I-a", "I-b"], {("a", 0, 0), ("b", 1, 1)}),
        (["O", "I-a", "I-a", "O", "B-b"], {("a", 1, 2), ("b", 4, 4)}),
        (["B-a", "I-b", "I-b"], {("a", 0, 0), ("b", 1, 2)}),
    ],
)
def test_entities_are_those_of_conll(tags: list[str], entities: set[tuple[str, int, int]]) -> None:
    assert find_entities(tags) == entities


@given(tag_rows)
def test_every_tagged_word_lies_in_one_entity_of_its_type(tags: list[str]) -> None:
    covered = {place: kind for kind, first, last in find_entities(tags) for place in range(first, last + 1)}
    assert covered == {place: tag[2:] for place, tag in enumerate(tags) if tag != "O"}
    assert sum(last - first + 1 for _, first, last in find_entities(tags)) == len(covered)


def test_entity_scores_by_hand() -> None:
    right = [["B-a", "I-a", "O", "B-b"], ["O", "O"], ["B-b"]]
    said = [["B-a", "O", "O", "B-b"], ["B-a", "O"], ["B-b"]]  # 2 of 4 said are right, 2 of 3 there are found
    assert conclude_entities(count_entities(zip(said, right, strict=True))) == {
        "f1": 4 / 7,
        "precision": 2 / 4,
        "recall": 2 / 3,
    }
    assert conclude_entities(count_entities([(["O"], ["B-a"])])) == {"f1": 0.0, "precision": 0.0, "recall": 0.0}


def test_the_score_counts_words_and_not_their_further_tokens() -> None:
    rows = encode(GOOD, {"tokens": ["baba", "ba"], "tags": ["B-noun", "O"]})
    outputs = answer_with(rows, [["O", "B-noun", "I-noun"], ["O", "O"]])
    assert TASK.score(outputs, rows) == pytest.approx(
        {"f1": 2 / 3, "precision": 1.0, "recall": 1 / 2, "accuracy": 4 / 5}
    )
    assert next(iter(TASK.score(outputs, rows))) == "f1"
    same = answer_with(rows, [["O", "B-noun", "O"], ["O", "O"]])
    assert TASK.agree(outputs, same, rows).tolist() == [True, True, False, True, True]


def test_tags_that_spell_no_entities_are_scored_by_accuracy() -> None:
    rows = encode({"tokens": ["ba", "be"], "tags": [0, 1]}, config=bert_config(num_labels=2))
    logits = np.tile(np.array([1.0, 0.0]), (1, 4, 1))
    assert TASK.score({"logits": logits}, rows) == {"accuracy": 0.5}


def test_the_model_learns_from_the_labels() -> None:
    model = head_model("token-classification", "albert")
    rows = encode_head("token-classification", model, 4)
    found = model(**Collator(pad_token_id=0)(list(rows)))
    assert found.logits.shape[:2] == (4, max(rows.lengths))
    assert torch.isfinite(found.loss)


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({"tags": ["O", "O"]}, "3 tokens and 2 tags; expected one tag a token"),
        (
            {"tags": ["O", "O", "B-nuon"]},
            "label 'B-nuon' is not one of the checkpoint's 5: did you mean 'B-noun'?",
        ),
        ({"tags": [0, 1, 5]}, "label 5 is not one of the checkpoint's 5: expected 0 to 4"),
        ({"tags": "O O O"}, "column 'tags' is 'O O O' (str); expected a list, one tag a word"),
        ({"tags": None}, "column 'tags' is empty; expected a list, one tag a word"),
        ({"tokens": "ba be"}, "column 'tokens' is 'ba be' (str); expected a list of words"),
        ({"tokens": ["ba", 1, "be"]}, "column 'tokens' is ['ba', 1, 'be'] (list); expected a list of words"),
        ({"tokens": [], "tags": []}, "column 'tokens' has no words; expected at least one"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(record: dict[str, object], why: str) -> None:
    assert refusal(GOOD, GOOD | record) == f"my rows, row 2: {why}"


def test_a_missing_column_is_named() -> None:
    assert refusal({"tokens": ["ba"]}) == (
        "my rows has no column 'tags': token-classification needs tokens, tags, the rows have tokens; "
        "use --columns tags=..."
    )
