"""Feature extraction: texts and those to be found for them, metrics by definition, learning without labels."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from qat.batches import Collator, iterate_batches
from qat.checkpoint import load_checkpoint
from qat.data import Rows
from qat.distill import answer_distance
from qat.errors import DataError, RecipeError
from qat.finetune import finetune
from qat.finetune_settings import FinetuneSettings
from qat.pooling import Pooling, read_pooling
from qat.scoring import infer_with, refer_rows, score_rows
from qat.tasks import find_task
from qat.tasks.base import Encoded
from qat.tasks.embeddings import EncodedTexts, find_cosines, list_pairs, rank_pairs
from qat.tasks.feature_extraction import FeatureExtraction
from qat.tasks.record import TaskRecord, read_task_record
from tests.calibrated import make_calibrated
from tests.tiny import save_tiny, tiny_bert, tiny_tokenizer
from tests.tiny_heads import encode_head, head_model
from tests.tolerances import POOLED

TASK = find_task("feature-extraction")
HEAD = "feature-extraction"


def config(**pooling: Any) -> PreTrainedConfig:
    made = tiny_bert().config
    made.embedding = Pooling(**pooling).model_dump()
    return made


def encode(rows: list[dict[str, object]], **pooling: Any) -> Encoded:
    return TASK.encode(Rows(rows, source="my rows"), tokenizer=tiny_tokenizer(), config=config(**pooling))


def texts(vectors: int, pairs: list[tuple[int, int]], wanted: np.ndarray[Any, Any] | None = None) -> EncodedTexts:
    features = [{"input_ids": [place]} for place in range(vectors)]
    return EncodedTexts(features, 8, 0, "texts", pairs=pairs, wanted=wanted)


def test_second_texts_follow_their_first() -> None:
    rows = encode([{"text": "ba be", "text_pair": "bi"}, {"text": "bo", "text_pair": "bu da"}], pooling="mean")
    assert isinstance(rows, EncodedTexts)
    assert [len(ids) for ids in rows.sequences] == [4, 3, 3, 4]
    assert (list(rows.pairs), rows.scored, len(rows)) == ([(0, 1), (2, 3)], 2, 4)
    assert list(rows.pick([3, 2, 0]).pairs) == [(1, 0)]
    assert encode([{"text": "ba"}], pooling="mean").scored == 1


def test_a_text_is_as_long_as_the_checkpoint_embeds() -> None:
    rows = encode([{"text": "ba be bi bo bu"}], pooling="mean", longest=4)
    assert (rows.max_length, rows.truncated, len(rows.sequences[0])) == (4, 1, 4)


def test_pairs_need_one_vector_a_text() -> None:
    with pytest.raises(DataError) as caught:
        encode([{"text": "ba", "text_pair": "be"}])
    assert str(caught.value) == (
        "my rows has a column 'text_pair' to be found, which needs one vector a text: calibrate with "
        "--set task.pooling=mean, or cls"
    )


@given(st.integers(1, 12), st.integers(0, 99))
def test_a_pair_is_found_where_few_are_nearer(count: int, seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(2 * count, 3))
    pairs = [(2 * i, 2 * i + 1) for i in range(count)]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = [sum(float(unit[a] @ unit[b]) > float(unit[a] @ unit[own]) for _, b in pairs) for a, own in pairs]
    rows = texts(len(vectors), pairs)
    assert rank_pairs(list_pairs(vectors, rows)).tolist() == expected
    scores = FeatureExtraction().score({"vectors": vectors}, rows)
    assert scores == {f"recall_at_{k}": pytest.approx(np.mean([rank < k for rank in expected])) for k in (10, 1)}


def test_vectors_all_alike_find_nothing() -> None:
    rows = texts(40, [(2 * i, 2 * i + 1) for i in range(20)])
    assert FeatureExtraction().score({"vectors": np.ones((40, 4))}, rows) == {"recall_at_10": 0.0, "recall_at_1": 0.0}


def test_the_same_text_twice_is_one_candidate() -> None:
    rows = EncodedTexts([{"input_ids": [each]} for each in (1, 2, 3, 2)], 8, 0, "texts", pairs=[(0, 1), (2, 3)])
    vectors = np.array([[1.0, 0.0], [1.0, 0.1], [1.0, 0.0], [1.0, 0.1]])
    assert rank_pairs(list_pairs(vectors, rows)).tolist() == [0, 0]


@given(st.integers(0, 99))
def test_cosines_are_those_of_the_definition(seed: int) -> None:
    first, second = np.random.default_rng(seed).normal(size=(2, 4, 3, 5))
    first[1, 2:] = np.nan
    products = [
        [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(ours, theirs, strict=True) if np.isfinite(a[0])]
        for ours, theirs in zip(first, second, strict=True)
    ]
    np.testing.assert_allclose(find_cosines(first, second), [np.mean(each) for each in products], atol=POOLED.value)
    np.testing.assert_allclose(find_cosines(first[:, 0], second[:, 0]), [each[0] for each in products])


def test_texts_agree_where_their_vectors_are_near() -> None:
    first, second = np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[5.0, 0.5], [5.0, 1.0]])
    assert TASK.agree({"vectors": first}, {"vectors": second}, texts(2, [])).tolist() == [True, False]


def test_without_pairs_or_a_float_model_nothing_is_right() -> None:
    with pytest.raises(DataError) as caught:
        TASK.score({"vectors": np.ones((2, 4))}, texts(2, []))
    assert str(caught.value) == (
        "texts has no column 'text_pair' to be found, and no float model says what is right: add --reference with the "
        "float checkpoint"
    )


@pytest.mark.parametrize("mode", ["none", "mean"])
def test_a_float_model_says_what_is_right(mode: str) -> None:
    model = head_model(HEAD, "bert")
    model.config.embedding = {"pooling": mode}
    TASK.prepare(model)
    rows = encode([{"text": "ba be"}, {"text": "bi"}, {"text": "bo bu da de"}], pooling=mode)
    right = refer_rows(infer_with(model), rows, TASK, pad_token_id=0)
    assert score_rows(infer_with(model), right, TASK, pad_token_id=0).metrics == {"cosine": pytest.approx(1.0)}
    other = head_model(HEAD, "bert", seed=1)
    other.config.embedding = {"pooling": mode}
    TASK.prepare(other)
    assert score_rows(infer_with(other), right, TASK, pad_token_id=0).value < 0.9


def test_a_folder_of_sentence_transformers_pools_as_it_says(tmp_path: Path) -> None:
    folder = save_tiny(AutoModel.from_config(tiny_bert().config), tiny_tokenizer(), tmp_path)
    (folder / "modules.json").write_text(
        json.dumps([{"type": "a.Transformer", "path": ""}, {"type": "a.Pooling", "path": "1_Pooling"}])
    )
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}')
    model = load_checkpoint(folder, TASK).model
    assert read_pooling(model.config) == Pooling(pooling="cls")
    assert read_task_record(PreTrainedConfig(), folder=folder, given=HEAD).outputs == ("sentence_embedding",)
    told = TASK.configure({"pooling": "mean"})
    assert read_pooling(load_checkpoint(folder, told).model.config) == Pooling(pooling="mean")
    assert read_pooling(load_checkpoint(folder, TASK.settle(model.config)).model.config) == Pooling(pooling="cls")


def test_a_checkpoint_may_lack_the_pooler_that_no_embedding_reads(tmp_path: Path) -> None:
    model = AutoModel.from_config(tiny_bert().config, add_pooling_layer=False)
    loaded = load_checkpoint(save_tiny(model, tiny_tokenizer(), tmp_path), TASK).model
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight)


def test_other_tasks_have_no_settings() -> None:
    with pytest.raises(RecipeError) as caught:
        find_task("text-classification").configure({"pooling": "mean"})
    assert str(caught.value) == "--set task.pooling: text-classification has no settings of its own"


def student() -> PreTrainedModel:
    return make_calibrated(head_model(HEAD, "bert"))


def test_it_learns_from_the_float_model_alone() -> None:
    model, teacher = student(), head_model(HEAD, "bert", seed=1)
    rows = encode_head(HEAD, model, 24)
    batch = next(iterate_batches(rows, batch_size=48, pad_token_id=0)).to_tensors()

    def distance() -> float:
        with torch.no_grad():
            return float(answer_distance(model(**batch), teacher(**batch), batch, 2.0, independent=False))

    before = distance()
    settings = FinetuneSettings(max_steps=10, batch_size=8, learning_rate=1e-3, held_out=8, evaluations=2)
    done = finetune(model, rows, tokenizer=tiny_tokenizer(), teacher=teacher, settings=settings)
    assert (done.best_step, list(done.held_out)) == (10, [0, 5, 10])
    assert distance() < before


def test_the_distance_of_unit_vectors_is_twice_what_their_cosine_lacks() -> None:
    model, teacher = head_model(HEAD, "bert"), head_model(HEAD, "bert", seed=1)
    batch = Collator(pad_token_id=0)(list(encode_head(HEAD, model, 6)))
    with torch.no_grad():
        ours, theirs = model(**batch), teacher(**batch)
    cosines = (ours.sentence_embedding * theirs.sentence_embedding).sum(dim=-1)
    found = answer_distance(ours, theirs, batch, 2.0, independent=False)
    torch.testing.assert_close(found, 2 * (1 - cosines.mean()))


def test_without_labels_a_teacher_is_needed() -> None:
    model = student()
    with pytest.raises(DataError) as caught:
        finetune(model, encode_head(HEAD, model, 8), tokenizer=tiny_tokenizer(), settings=FinetuneSettings(max_steps=1))
    assert str(caught.value) == (
        "the rows have no labels, and there is no teacher to learn from instead: give the float checkpoint"
    )


def test_the_record_names_what_the_graph_answers() -> None:
    rows = encode([{"text": "ba"}], pooling="cls")
    assert TaskRecord.of(TASK, {}, None, rows, config(pooling="cls")).outputs == ("sentence_embedding",)
    assert TaskRecord.of(TASK, {}, None, rows, config()).outputs == ("last_hidden_state",)
