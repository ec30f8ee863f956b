"""The shipped sample is what its README says."""

from pathlib import Path

from transformers import AutoTokenizer

from benchmarks import sample
from benchmarks.sample import CHECKPOINT, TRAIN, VALIDATION
from qat.scoring import infer_with, score_rows
from qat.tasks import find_task

FOLDER = Path(sample.__file__).parent
MEBIBYTE = 2**20


def test_size_and_licence() -> None:
    files = [file for file in FOLDER.rglob("*") if file.is_file() and file.suffix not in {".py", ".pyc"}]
    assert sum(file.stat().st_size for file in files) < 12 * MEBIBYTE
    notice = (FOLDER / "LICENSE-WordNet.txt").read_text(encoding="utf-8")
    assert notice.startswith("WordNet Release 3.0. This software and database is being provided to you, the LICENSEE")
    assert "WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved." in notice


def test_rows_are_those_the_readme_counts() -> None:
    task = find_task("text-classification")
    assert len(task.load(TRAIN, columns={})) == 8192
    assert len(task.load(VALIDATION, columns={})) == 2048


def test_every_label_is_one_of_the_checkpoint() -> None:
    task = find_task("text-classification")
    config = task.auto_class.from_pretrained(CHECKPOINT).config
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    for source in (TRAIN, VALIDATION):
        encoded = task.encode(task.load(source, columns={}), tokenizer=tokenizer, config=config, max_length=64)
        assert {feature["labels"] for feature in encoded} <= set(range(45))


def test_checkpoint_has_the_accuracy_the_readme_states() -> None:
    task = find_task("text-classification")
    model = task.auto_class.from_pretrained(CHECKPOINT).eval()
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    rows = task.load(VALIDATION, columns={})
    encoded = task.encode(rows, tokenizer=tokenizer, config=model.config, max_length=64)
    found = score_rows(infer_with(model), encoded, task, pad_token_id=int(tokenizer.pad_token_id), batch_size=32)
    # One row of slack: another CPU adds in another order, and a near tie may turn.
    assert abs(found.metrics["accuracy"] - 1629 / 2048) <= 1 / 2048
    assert "| 1,629 | 0.79541 |" in (FOLDER / "README.md").read_text(encoding="utf-8")
