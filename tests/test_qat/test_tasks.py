"""Text classification encodes, labels and scores rows as the checkpoint expects."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, PreTrainedConfig

from qat.batches import Collator
from qat.data import Rows
from qat.errors import DataError
from qat.tasks import find_task, register_task
from qat.tasks.base import Encoded
from qat.tasks.text_classification import TextClassification
from qat.tasks.texts import resolve_max_length
from tests.tiny import MAX_LENGTH, TINY_MODELS, save_tiny, tiny_bert, tiny_rows, tiny_tokenizer

TASK = find_task("text-classification")
CONFIG = tiny_bert().config


def bert_config(**settings: Any) -> BertConfig:
    return BertConfig(**{"max_position_embeddings": MAX_LENGTH} | settings)


def encode(records: list[dict[str, object]], config: PreTrainedConfig = CONFIG, **settings: Any) -> Encoded:
    return TASK.encode(Rows(records, source="my rows"), tokenizer=tiny_tokenizer(), config=config, **settings)


def refusal(records: list[dict[str, object]], config: PreTrainedConfig = CONFIG, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        encode(records, config, **settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_unknown_task() -> None:
    with pytest.raises(DataError) as caught:
        find_task("text-clasification")
    assert str(caught.value).startswith(
        "task 'text-clasification' is not known: did you mean 'text-classification'? known: "
    )


def test_task_of_a_taken_name() -> None:
    with pytest.raises(ValueError, match="task 'text-classification' is registered already"):
        register_task(TextClassification())


def test_facts_of_the_task() -> None:
    assert TASK.name == "text-classification"
    assert TASK.auto_class is AutoModelForSequenceClassification
    assert TASK.columns.names == ("text", "text_pair", "label")


def test_single_texts_are_encoded_as_the_tokenizer_spells_them() -> None:
    encoded = encode([{"text": "ba be", "label": "plant"}, {"text": "Bi zzz", "label": 2}])
    assert [dict(feature) for feature in encoded] == [
        {"input_ids": [2, 5, 6, 3], "attention_mask": [1, 1, 1, 1], "labels": 1},
        {"input_ids": [2, 7, 1, 3], "attention_mask": [1, 1, 1, 1], "labels": 2},
    ]
    assert (len(encoded), encoded.truncated, encoded.max_length, encoded.source) == (2, 0, MAX_LENGTH, "my rows")
    assert encoded.lengths.tolist() == [4, 4]


def test_pairs_have_segments() -> None:
    feature = encode([{"text": "ba", "text_pair": "be bi", "label": 0}])[0]
    assert feature["input_ids"] == [2, 5, 3, 6, 7, 3]
    assert feature["token_type_ids"] == [0, 0, 0, 1, 1, 1]


def test_pairs_have_no_segments_where_the_checkpoint_knows_one_only() -> None:
    config = bert_config(type_vocab_size=1, num_labels=3)
    assert "token_type_ids" not in encode([{"text": "ba", "text_pair": "be", "label": 0}], config)[0]


@given(words=st.lists(st.integers(1, 90), min_size=1, max_size=6), max_length=st.integers(3, MAX_LENGTH))
def test_long_texts_are_cut_and_counted(words: list[int], max_length: int) -> None:
    encoded = encode([{"text": " ".join(["ba"] * count), "label": 0} for count in words], max_length=max_length)
    assert encoded.truncated == sum(count + 2 > max_length for count in words)
    assert encoded.lengths.tolist() == [min(count + 2, max_length) for count in words]
    for feature in encoded:
        ids = feature["input_ids"]
        assert isinstance(ids, list)
        assert (ids[0], ids[-1]) == (2, 3)
        assert feature["attention_mask"] == [1] * len(ids)


def test_the_longer_text_of_a_pair_is_cut() -> None:
    encoded = encode([{"text": "ba " * 30, "text_pair": "be bi", "label": 0}], max_length=10)
    assert encoded[0]["input_ids"] == [2, 5, 5, 5, 5, 5, 3, 6, 7, 3]
    assert encoded[0]["token_type_ids"] == [0] * 7 + [1] * 3
    assert encoded.truncated == 1


def test_longest_text_is_the_lesser_of_tokenizer_and_checkpoint() -> None:
    tokenizer = tiny_tokenizer()
    assert resolve_max_length(None, tokenizer=tokenizer, config=BertConfig(), pair=False) == MAX_LENGTH
    tokenizer.model_max_length = 10**30
    assert resolve_max_length(None, tokenizer=tokenizer, config=BertConfig(), pair=False) == 512


def test_longest_text_that_nobody_knows() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 10**30
    with pytest.raises(DataError) as caught:
        resolve_max_length(None, tokenizer=tokenizer, config=PreTrainedConfig(), pair=False)
    assert str(caught.value) == "neither tokenizer nor checkpoint says how long a text may be: use --max-length"


def test_max_length_beyond_the_checkpoint() -> None:
    assert refusal([{"text": "ba", "label": 0}], max_length=65) == (
        "max length 65 is more than the 64 positions of the checkpoint: use --max-length 64"
    )


@pytest.mark.parametrize(("pair", "least"), [({}, 3), ({"text_pair": "be"}, 5)])
def test_max_length_without_room(pair: dict[str, object], least: int) -> None:
    records = [{"text": "ba", "label": 0} | pair]
    assert refusal(records, max_length=least - 1) == (
        f"max length {least - 1} leaves no room for a token: expected {least} or more"
    )
    assert encode(records, max_length=least).lengths.tolist() == [least]


@pytest.mark.parametrize("label", ["plant", 1, "1", " 1", np.int64(1)])
def test_labels_by_name_or_integer(label: object) -> None:
    assert encode([{"text": "ba", "label": label}])[0]["labels"] == 1


def test_default_names_are_names_too() -> None:
    config = bert_config(num_labels=3)
    assert encode([{"text": "ba", "label": "LABEL_2"}], config)[0]["labels"] == 2


def test_names_that_are_digits_come_before_integers() -> None:
    config = BertConfig(id2label={0: "1", 1: "0"}, label2id={"1": 0, "0": 1}, max_position_embeddings=MAX_LENGTH)
    assert [
        feature["labels"] for feature in encode([{"text": "ba", "label": "1"}, {"text": "ba", "label": 1}], config)
    ] == [
        0,
        1,
    ]


@pytest.mark.parametrize(
    ("label", "why"),
    [
        ("plnat", "label 'plnat' is not one of the checkpoint's 3: did you mean 'plant'?"),
        ("???", "label '???' is not one of the checkpoint's 3: expected a name like 'animal', or its integer"),
        (3, "label 3 is not one of the checkpoint's 3: expected 0 to 2"),
        (-1, "label -1 is not one of the checkpoint's 3: expected 0 to 2"),
        ("--1", "label '--1' is not one of the checkpoint's 3: expected a name like 'animal', or its integer"),
        (None, "the label is empty; expected a name or an integer, 0 to 2"),
        (True, "the label is True (bool); expected a name or an integer, 0 to 2"),
        (1.0, "the label is 1.0 (float); expected a name or an integer, 0 to 2"),
    ],
)
def test_unknown_label_names_the_row(label: object, why: str) -> None:
    assert refusal([{"text": "ba", "label": 0}, {"text": "be", "label": label}]) == f"my rows, row 2: {why}"


def test_named_labels_for_a_checkpoint_without_names() -> None:
    config = bert_config(num_labels=3)
    assert refusal([{"text": "ba", "label": "plant"}], config) == (
        "my rows, row 1: label 'plant' is a name, but the checkpoint's labels have none (LABEL_0, ...): "
        "give integers, 0 to 2, or write the names to id2label and label2id in its config.json"
    )


@pytest.mark.parametrize(
    ("settings", "head"),
    [
        ({"num_labels": 3, "problem_type": "regression"}, "problem_type 'regression' and 3 in label2id"),
        (
            {"num_labels": 1, "problem_type": "multi_label_classification"},
            "problem_type 'multi_label_classification' and 1 in label2id",
        ),
    ],
)
def test_head_that_fits_no_problem(settings: dict[str, Any], head: str) -> None:
    assert refusal([{"text": "ba", "label": 0}], bert_config(**settings)) == (
        f"the checkpoint's head has {head}: text-classification expects regression with one, or "
        "single_label_classification or multi_label_classification with two or more"
    )


def test_labels_may_be_missing_where_none_are_needed() -> None:
    encoded = encode([{"text": "ba"}], require_labels=False)
    assert "labels" not in encoded[0]
    assert encode([{"text": "ba", "label": 1}], require_labels=False)[0]["labels"] == 1


@pytest.mark.parametrize(
    ("record", "column", "needs"),
    [
        (
            {"sentence": "ba", "label": 0},
            "text",
            "text-classification needs text, label, the rows have sentence, label",
        ),
        ({"text": "ba", "class": 0}, "label", "text-classification needs text, label, the rows have text, class"),
    ],
)
def test_missing_column(record: dict[str, object], column: str, needs: str) -> None:
    assert refusal([record]) == f"my rows has no column '{column}': {needs}; use --columns {column}=..."


def test_no_rows() -> None:
    assert refusal([]) == "my rows has no rows: expected at least one"


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({"text": None, "label": 0}, "column 'text' is empty; expected text"),
        ({"label": 0}, "column 'text' is empty; expected text"),
        ({"text": 7, "label": 0}, "column 'text' is 7 (int); expected text"),
        ({"text": "ba", "text_pair": None, "label": 0}, "column 'text_pair' is empty; expected text"),
    ],
)
def test_value_that_is_no_text_names_the_row(record: dict[str, object], why: str) -> None:
    first: dict[str, object] = {"text": "ba", "text_pair": "be", "label": 0}
    if "text_pair" not in record:
        del first["text_pair"]
    assert refusal([first, record]) == f"my rows, row 2: {why}"


def test_load_reads_the_task_s_columns(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("sentence,class\nba be,plant\n", encoding="utf-8")
    rows = TASK.load(path, columns={"text": "sentence", "label": "class"})
    assert dict(rows[0]) == {"text": "ba be", "label": "plant"}


def test_load_refuses_a_column_the_task_does_not_read(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        TASK.load(tmp_path / "rows.csv", columns={"txt": "sentence"})
    assert str(caught.value) == (
        "--columns names 'txt', which text-classification does not read: "
        "did you mean 'text'? known: label, text, text_pair"
    )


def test_load_needs_labels_only_where_asked(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "ba"}\n', encoding="utf-8")
    assert len(TASK.load(path, columns={}, require_labels=False)) == 1
    with pytest.raises(DataError) as caught:
        TASK.load(path, columns={})
    assert str(caught.value) == (
        f"{path} has no column 'label': text-classification needs text, label, the rows have text; "
        "use --columns label=..."
    )


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_score_counts_the_right_answers(pairs: list[tuple[int, int]]) -> None:
    logits = np.eye(4)[[answer for answer, _ in pairs]]
    rows = encode([{"text": "ba", "label": label} for _, label in pairs], bert_config(num_labels=4))
    share = sum(answer == label for answer, label in pairs) / len(pairs)
    assert TASK.score({"logits": logits}, rows) == {"accuracy": share}


def test_rows_without_labels_are_not_scored() -> None:
    with pytest.raises(DataError) as caught:
        TASK.score({"logits": np.zeros((1, 3))}, encode([{"text": "ba"}], require_labels=False))
    assert str(caught.value) == "my rows was encoded without labels: rows without labels cannot be scored"


@pytest.fixture(params=TINY_MODELS.values(), ids=list(TINY_MODELS))
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return save_tiny(request.param(), tiny_tokenizer(), tmp_path / "tiny")


def test_saved_checkpoint_encodes_and_learns_from_tiny_rows(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = TASK.auto_class.from_pretrained(folder)
    encoded = TASK.encode(Rows(tiny_rows(8), source="tiny rows"), tokenizer=tokenizer, config=model.config)
    assert [dict(feature) for feature in encoded] == [dict(feature) for feature in encode(tiny_rows(8), model.config)]
    loss = model(**Collator(pad_token_id=0)(list(encoded))).loss
    loss.backward()
    assert all(float(each.grad.abs().sum()) > 0 for each in model.classifier.parameters())
