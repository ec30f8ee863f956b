"""The table of what QAT recovers: cells kept and taken up again, controls, differences of any metric, checkpoints."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.float_checkpoint import float_checkpoint_command, start_checkpoint
from benchmarks.qat_cells import COLUMNS, measure_difference
from benchmarks.qat_command import qat_command
from benchmarks.qat_table import draw_columns
from qat.artefacts import read_manifest
from qat.checkpoint import load_checkpoint
from qat.commands import encode_rows
from qat.errors import RecipeError
from qat.tasks import find_task
from qat.tasks.record import TaskRecord
from tests.test_command_line.calling import Workspace, make_workspace, write_rows
from tests.tolerances import PAIRED

SHORT = ["finetune.max_steps=2", "finetune.learning_rate=1e-3", "finetune.batch_size=8"]
ONLY = ["ptq", "fp32 trained on", "qat distilled"]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("qat"))


@pytest.fixture(scope="module")
def table(workspace: Workspace) -> Path:
    out = workspace.folder / "table"
    qat_command(workspace.checkpoint, workspace.train, workspace.validation, out, seeds=2, only=ONLY, settings=SHORT)
    return out


def read_table(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "table.json").read_text())
    return found


def test_every_cell_is_there_with_its_control(table: Path) -> None:
    found = read_table(table)
    trained = [name for name in ("fp32 trained on", "qat distilled") for _ in range(2)]
    assert sorted(row["column"] for row in found["cells"]) == sorted(["fp32", "ptq", *trained])
    by_name = {each["column"]: each for each in found["columns"]}
    best = max(by_name[name]["mean"] for name in ("fp32", "fp32 trained on"))
    for name, each in by_name.items():
        values = [row["value"] for row in found["cells"] if row["column"] == name]
        assert each["mean"] == pytest.approx(np.mean(values), abs=PAIRED.value)
        assert each["of_fp32"] == pytest.approx(100 * each["mean"] / by_name["fp32"]["mean"])
        assert each["of_best_fp32"] == pytest.approx(100 * each["mean"] / best)
        assert each["points"] == pytest.approx(each["mean"] - by_name["fp32"]["mean"], abs=PAIRED.value)
        assert each["best_points"] == pytest.approx(each["mean"] - best, abs=PAIRED.value)
        assert each["seeds"] == len(values)
    for row in found["cells"]:
        quantized = COLUMNS[row["column"]].start == "calibrated"
        assert (row["onnx"] is None) == (not quantized)
        assert (row["steps"] is None) == (COLUMNS[row["column"]].lesson == "none")
        assert row["points"] == pytest.approx(row["value"] - by_name["fp32"]["mean"], abs=PAIRED.value)


def test_the_export_scores_as_the_model_does(table: Path) -> None:
    """32 rows: a row that falls the other way would be three points."""
    rows = [row for row in read_table(table)["cells"] if row["onnx"] is not None]
    assert [row["column"] for row in rows if row["onnx"] != row["value"]] == []


def test_an_interrupted_table_goes_on_where_it_stopped(table: Path, workspace: Workspace) -> None:
    before = read_table(table)
    kept = {path: path.stat().st_mtime_ns for path in table.glob("*.json") if path.name != "table.json"}
    lost = table / "qat-distilled.1.json"
    lost.unlink()
    qat_command(workspace.checkpoint, workspace.train, workspace.validation, table, seeds=2, only=ONLY, settings=SHORT)
    again = {path: path.stat().st_mtime_ns for path in kept}
    assert [path.name for path in kept if again[path] != kept[path]] == [lost.name]
    assert read_table(table)["cells"] == before["cells"]


def test_a_column_that_is_none_is_named(workspace: Workspace) -> None:
    with pytest.raises(RecipeError, match=r"^column 'qatt' is not known: did you mean 'qat'\?"):
        qat_command(workspace.checkpoint, workspace.train, workspace.validation, workspace.folder / "x", only=["qatt"])


def test_lines_fit_eighty_columns() -> None:
    shares, apart = dict.fromkeys(("mean", "of_fp32", "of_best_fp32"), 100.0), ("points", "best_points")
    rows = [
        {"column": name, **shares, **dict.fromkeys(apart, -99.99), **dict.fromkeys(("error", "best_error"), 9.99)}
        for name in COLUMNS
    ]
    assert max(map(len, draw_columns(rows).splitlines())) <= 80


def test_the_error_of_a_difference_is_the_paired_one(workspace: Workspace) -> None:
    """For a share of right rows the jackknife with a row a block is the usual standard error, exactly."""
    task = find_task("text-classification")
    record = TaskRecord(name=task.name)
    rows = encode_rows(load_checkpoint(workspace.checkpoint, task), task, record, workspace.validation)
    random = np.random.default_rng(0)
    first, second = ({"logits": random.normal(size=(len(rows), 3)).astype(np.float32)} for _ in range(2))
    points, error = measure_difference(task, rows, [first], [second])
    labels = rows.read("labels")
    apart = np.subtract(*((x["logits"].argmax(1) == labels).astype(float) for x in (first, second)))
    assert points == pytest.approx(apart.mean(), abs=PAIRED.value)
    assert error == pytest.approx(apart.std(ddof=1) / len(rows) ** 0.5, abs=PAIRED.value)
    both = measure_difference(task, rows, [first, second], [second])
    assert both == pytest.approx((points / 2, error / 2), abs=PAIRED.value)


def test_an_encoder_gets_the_head_of_another_task(workspace: Workspace) -> None:
    pairs: list[dict[str, object]] = [
        {"text": "ba da", "text_pair": "ma la" if n % 2 else "ba da", "label": float(n % 2)} for n in range(48)
    ]
    data = write_rows(workspace.folder / "pairs.jsonl", pairs)
    out = workspace.folder / "regression"
    float_checkpoint_command(
        workspace.checkpoint, "text-classification", data, out, label=["similarity"], settings=SHORT
    )
    manifest = read_manifest(out)
    assert manifest["stage"] == "float"
    loaded = load_checkpoint(out, find_task("text-classification"))
    assert (loaded.model.config.num_labels, loaded.quantization) == (1, None)


def test_a_new_head_is_drawn_by_the_seed(workspace: Workspace) -> None:
    heads = [
        start_checkpoint(workspace.checkpoint, "text-classification", ["a", "b"], seed)
        .model.get_parameter("classifier.weight")
        .tolist()
        for seed in (0, 0, 1)
    ]
    assert heads[0] == heads[1] != heads[2]
