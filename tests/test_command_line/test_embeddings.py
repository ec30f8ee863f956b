"""Embeddings on the command line: from a float base model to a graph that answers with one vector a text."""

import json
from pathlib import Path

import pytest
from transformers import AutoModel

from tests.test_command_line.calling import Workspace, call, write_rows
from tests.tiny import save_tiny, spread_weights, tiny_bert, tiny_rows, tiny_tokenizer

TEACHERLESS = "feature-extraction has no labels to learn: add --teacher with the float checkpoint"
UNSAID = (
    "has no column 'text_pair' to be found, and no float model says what is right: add --reference with the float "
    "checkpoint"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A float base model, rows of texts and of pairs, and the model calibrated to embed by the mean."""
    folder = tmp_path_factory.mktemp("embeddings")
    model = AutoModel.from_config(tiny_bert().config)
    spread_weights(model, 0)
    save_tiny(model, tiny_tokenizer(), folder / "float")
    texts = [{"text": row["text"]} for row in tiny_rows(48)]
    write_rows(folder / "texts.jsonl", texts)
    write_rows(folder / "pairs.jsonl", [{**row, "text_pair": texts[-i]["text"]} for i, row in enumerate(texts[:24])])
    done = call(
        *("calibrate", folder / "float", "--task", "feature-extraction", "--data", folder / "pairs.jsonl"),
        *("--out", folder / "calibrated", "--set", "task.pooling=mean", "--set", "task.normalize=true"),
    )
    assert (done.code, done.err) == (0, done.err)
    return Workspace(folder, folder / "float", folder / "pairs.jsonl", folder / "texts.jsonl")


def test_a_graph_embeds_as_its_checkpoint_and_both_near_the_float_model(made: Workspace) -> None:
    done = call(
        *("finetune", made.folder / "calibrated", "--data", made.train, "--eval", made.validation),
        *("--teacher", made.checkpoint, "--out", made.folder / "fine", "--set", "finetune.max_steps=3", "--json"),
    )
    assert done.value["score"]["metric"] == "cosine"
    assert call("export", made.folder / "fine", "--out", made.folder / "onnx").code == 0
    for data, metrics in ((made.train, ["recall_at_10", "recall_at_1", "cosine"]), (made.validation, ["cosine"])):
        torch, graph = (
            call("evaluate", made.folder / name, "--data", data, "--reference", made.checkpoint, "--json").value
            for name in ("fine", "onnx")
        )
        assert list(torch["metrics"]) == list(graph["metrics"]) == metrics
        assert graph["metrics"]["cosine"] > 0.99
        assert torch["metrics"]["cosine"] > 0.99
    manifest = json.loads((made.folder / "onnx" / "qdq.json").read_text(encoding="utf-8"))
    assert "sentence_embedding" in str(manifest)


def test_a_float_checkpoint_finds_pairs(made: Workspace) -> None:
    done = call("evaluate", made.checkpoint, "--task", "feature-extraction", "--data", made.validation)
    assert (done.code, done.err) == (2, f"qdq: {made.validation} {UNSAID}\n")
    ranked = call("evaluate", made.folder / "calibrated", "--data", made.train, "--json").value
    assert (ranked["metric"], ranked["n"]) == ("recall_at_10", 24)


def test_without_a_teacher_there_is_nothing_to_learn(made: Workspace, tmp_path: Path) -> None:
    done = call("finetune", made.folder / "calibrated", "--data", made.train, "--out", tmp_path / "new")
    assert (done.code, done.out, done.err) == (2, "", f"qdq: {TEACHERLESS}\n")
    assert list(tmp_path.iterdir()) == []
