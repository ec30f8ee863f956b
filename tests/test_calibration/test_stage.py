"""The stage reads its rows in a stream: in parts or whole, the same batches, the same ranges, and what does not fit."""

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import pytest

from calibration.range_rows import list_ranges
from calibration.settings import CalibrationSettings
from calibration.stage import CalibrationStage, calibrate_checkpoint
from qat.checkpoint import load_checkpoint
from qat.errors import DataError
from qat.recipe import Recipe
from qat.tasks import find_task
from qat.tasks.base import Encoded
from qat.tasks.record import TaskRecord
from tests.tiny import save_tiny, tiny_bert, tiny_tokenizer
from tests.tiny_heads import HEADS, encode_head, head_model

Ranges = list[tuple[str, int, float]]
Steps = list[tuple[int, int | None]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tiny_bert(num_hidden_layers=1), tiny_tokenizer(), tmp_path_factory.mktemp("float") / "bert")


def calibrate_parts(
    checkpoint: Path,
    first: Encoded,
    rest: Iterable[Encoded],
    out: Path,
    *,
    head: str = "single-label",
    samples: int = 8,
) -> Steps:
    task = find_task(HEADS[head].task)
    loaded = load_checkpoint(checkpoint, task)
    stage = CalibrationStage(
        recipe=Recipe.load("tensorrt").for_target("rtx"),
        target="rtx",
        settings=CalibrationSettings(method="best", search_rows=6, samples=samples),
        record=TaskRecord.of(task, {}, None, first, loaded.model.config),
        batch_size=4,
    )
    parts = chain([first], rest)
    told: list[tuple[str, int, int | None]] = []
    calibrate_checkpoint(
        loaded, parts, stage, out=out, inputs={}, progress=lambda phase, done, of: told.append((phase, done, of))
    )
    return [(done, of) for phase, done, of in told if phase == "observe"]


def ranges_of(folder: Path) -> Ranges:
    model = load_checkpoint(folder, find_task("text-classification")).model
    return [(row.name, row.depth, row.amax) for row in list_ranges(model)]


def test_rows_in_parts_give_the_ranges_of_all_at_once(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calibration.stage.POOL", 2)
    rows = encode_head("single-label", tiny_bert(), 32)
    parts = [rows.pick(range(start, start + 8)) for start in range(0, 32, 8)]
    whole, some = tmp_path / "whole", tmp_path / "parts"
    whole_steps = calibrate_parts(checkpoint, rows, [], whole, samples=22)
    steps = calibrate_parts(checkpoint, parts[0], parts[1:], some, samples=22)
    assert ranges_of(some) == ranges_of(whole)
    assert [done for done, _ in steps] == [done for done, _ in whole_steps] == [1, 2, 3, 4, 5, 6]
    assert steps[-1] == whole_steps[-1] == (6, 6)


def test_no_part_is_read_that_is_not_asked_for(checkpoint: Path, tmp_path: Path) -> None:
    rows = encode_head("single-label", tiny_bert(), 8)

    def more() -> Iterator[Encoded]:
        pytest.fail("the first part has all rows that were asked for")
        yield rows

    assert calibrate_parts(checkpoint, rows, more(), tmp_path / "out") == [(1, 2), (2, 2)]


def test_rows_of_other_numbers_of_choices_are_refused(tmp_path: Path) -> None:
    model = head_model("multiple-choice", "bert", layers=1)
    folder = save_tiny(model, tiny_tokenizer(), tmp_path / "float")
    rows = encode_head("multiple-choice", model, 4)
    fewer = [{name: ids[:2] if isinstance(ids, list) else ids for name, ids in feature.items()} for feature in rows]
    other = Encoded(fewer, rows.max_length, 0, rows.source)
    with pytest.raises(DataError) as caught:
        calibrate_parts(folder, rows, [other], tmp_path / "out", head="multiple-choice")
    assert str(caught.value) == (
        f"{rows.source}: rows of 2 choices after rows of {rows.axes[1]}: give all rows as many"
    )
