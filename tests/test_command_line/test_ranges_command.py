"""``qdq ranges``: what it lists, compares, edits and refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from calibration.calibrate import calibrate
from calibration.range_rows import list_ranges
from calibration.settings import CalibrationSettings
from qat.artefacts import read_manifest
from qat.checkpoint import load_checkpoint
from qat.huggingface import wrap
from qat.tasks import find_task
from tests.calibrated import make_calibrated, save_calibrated, tiny_batches
from tests.test_command_line.calling import Workspace, call, list_tree
from tests.tiny import TINY_MODELS, save_tiny, tiny_albert, tiny_bert, tiny_tokenizer

TASK = ("--task", "text-classification")
FFN = "bert.encoder.layer.1.ffn_quantizer"
ALBERT = "albert.encoder.albert_layer_groups.0.albert_layers.0"


def ranges_of(folder: Path) -> dict[tuple[str, int], float]:
    model = load_checkpoint(folder, find_task("text-classification")).model
    return {(row.name, row.depth): row.amax for row in list_ranges(model)}


def changed(folder: Path, other: Path) -> dict[tuple[str, int], float]:
    before, after = ranges_of(folder), ranges_of(other)
    assert before.keys() == after.keys()
    return {key: amax for key, amax in after.items() if amax != before[key]}


@pytest.fixture(scope="module")
def calibrated(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ranges") / "calibrated"
    done = call("calibrate", workspace.checkpoint, *TASK, "--data", workspace.train, "--method", "all", "--out", out)
    assert done.code == 0
    return out


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ALBERT without evidence, as folders have it that were not made by ``qdq calibrate``."""
    return save_calibrated(make_calibrated(tiny_albert()), tmp_path_factory.mktemp("shared") / "albert")


@pytest.mark.parametrize("family", TINY_MODELS)
def test_every_family_is_listed_in_eighty_columns(
    family: str, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    save_tiny(TINY_MODELS[family](), tiny_tokenizer(), Path("float"))
    arguments = ("calibrate", "float", *TASK, "--data", workspace.train, "--method", "percentile")
    assert call(*arguments, "--out", "int8", "--set", "calibration.percentile=99").code == 0
    done = call("ranges", "int8", "--json")
    lines = done.out.splitlines()[:-1]
    told = [row for row in done.value["ranges"] if row["source"] == "calibrated"]
    assert (done.code, done.err) == (0, "")
    assert lines[0].startswith(f"int8: {len(told)} ranges from data; ")
    assert lines[1].split() == ["layer", "tensor", "amax", "scale", "method", "clipped", "max/amax", "outl."]
    assert max(map(len, lines)) <= 80
    assert "…" not in done.out
    assert sum("percentile" in line for line in lines) == len(told)
    assert [int(line.split()[0]) for line in lines[2:] if "percentile" in line] == sorted(row["layer"] for row in told)


def test_the_list_tells_what_calibration_kept(calibrated: Path) -> None:
    done = call("ranges", calibrated, "--json")
    rows = {(row["name"], row["depth"]): row for row in done.value["ranges"]}
    assert {key: row["amax"] for key, row in rows.items()} == ranges_of(calibrated)
    row = rows[FFN, 0]
    stored = json.loads((calibrated / "evidence.json").read_text())["ranges"][FFN][0]
    (figures,) = [each for each in stored["figures"] if each["amax"] == row["amax"]]
    assert (row["method"], row["role"], row["layer"], row["estimated"]) == ("best", "ffn", 1, False)
    assert {name: row[name] for name in ("saturated", "sqnr_db", "levels", "dead")} == {
        name: figures[name] for name in ("saturated", "sqnr_db", "levels", "dead")
    }
    assert (row["largest"], row["channels"], row["outliers"]) == (stored["largest"], 32, stored["outliers"])
    assert row["scale"] == float(np.float16(np.float32(row["amax"]) / np.float32(127)))
    weight = rows["bert.encoder.layer.1.intermediate.dense.weight_quantizer", 0]
    assert (weight["source"], weight["saturated"], weight["estimated"]) == ("weight", None, None)


def test_a_shared_layer_is_listed_by_depth_and_without_evidence_says_so(shared: Path) -> None:
    done = call("ranges", shared, *TASK, "--json")
    ffn = [row for row in done.value["ranges"] if row["name"] == f"{ALBERT}.attention.ffn_quantizer"]
    assert [(row["layer"], row["depth"]) for row in ffn] == [(0, 0), (1, 1), (2, 2)]
    assert {row["largest"] for row in ffn} == {row["method"] for row in ffn} == {None}
    assert done.out.count(" -  ") > 0


@pytest.mark.parametrize(
    ("value", "expected"),
    [("4.5", lambda amax: 4.5), ("x0.8", lambda amax: float(np.float32(amax * 0.8)))],
)
def test_ranges_are_set_by_number_and_by_factor(
    calibrated: Path, tmp_path: Path, value: str, expected: Callable[[float], float]
) -> None:
    before = list_tree(calibrated)
    edit = f"encoder.layer.1.*ffn*={value}"
    done = call("ranges", calibrated, "--set", edit, "--out", tmp_path / "edited", "--json")
    was = ranges_of(calibrated)[FFN, 0]
    assert (done.code, done.err) == (0, "")
    assert changed(calibrated, tmp_path / "edited") == {(FFN, 0): expected(was)}
    assert done.value["edited"] == [
        {"name": FFN, "depth": 0, "was": was, "amax": pytest.approx(expected(was)), "by": value}
    ]
    assert list_tree(calibrated) == before
    assert {"evidence.json", "candidates.json", "tokenizer.json"} <= list_tree(tmp_path / "edited").keys()


@pytest.mark.parametrize("method", ["max", "percentile", "mse", "entropy", "best"])
def test_ranges_are_set_to_a_candidate(calibrated: Path, tmp_path: Path, method: str) -> None:
    assert call("ranges", calibrated, "--set", f"*={method}", "--out", tmp_path / "out").code == 0
    stored = json.loads((calibrated / "candidates.json").read_text())["methods"][method]
    found = {name: [amax] for (name, depth), amax in ranges_of(tmp_path / "out").items() if name in stored}
    assert found == {name: pytest.approx(values, rel=1e-7) for name, values in stored.items()}
    told = call("ranges", tmp_path / "out", "--json").value["ranges"]
    assert {row["method"] for row in told if row["source"] == "calibrated"} == {method}
    assert {row["estimated"] for row in told if row["source"] == "calibrated"} == {False}


def test_a_later_edit_starts_where_the_one_before_ended(calibrated: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    sets = ("--set", "*ffn*=8", "--set", f"{FFN}=x0.5")
    assert call("ranges", calibrated, *sets, "--out", first).code == 0
    assert call("ranges", first, "--set", f"{FFN}=x2", "--out", second).code == 0
    other = "bert.encoder.layer.0.ffn_quantizer"
    assert changed(calibrated, first) == {(other, 0): 8.0, (FFN, 0): 4.0}
    assert changed(first, second) == {(FFN, 0): 8.0}
    assert read_manifest(second)["edited"] == {f"{other}:0": "8", f"{FFN}:0": "x2"}
    assert read_manifest(second)["stage"] == "ranges"
    rows = {row["name"]: row for row in call("ranges", second, "--json").value["ranges"]}
    assert (rows[FFN]["method"], rows[FFN]["estimated"], rows[FFN]["levels"]) == ("x2", True, None)
    assert "~" in call("ranges", second).out


def test_one_depth_of_a_shared_layer_is_set_alone(shared: Path, tmp_path: Path) -> None:
    assert call("ranges", shared, *TASK, "--set", "*ffn_quantizer:2=3.5", "--out", tmp_path / "out").code == 0
    assert changed(shared, tmp_path / "out") == {(f"{ALBERT}.attention.ffn_quantizer", 2): 3.5}


def test_weights_beside_activations_are_left_alone(calibrated: Path, tmp_path: Path) -> None:
    done = call("ranges", calibrated, "--set", "encoder.layer.0.*=7", "--out", tmp_path / "out", "--json")
    names = [each["name"] for each in done.value["edited"]]
    assert set(names) == {name for name, _ in changed(calibrated, tmp_path / "out")}
    assert not any("weight" in name or "probs" in name for name in names)
    assert len(names) == 8


def test_an_edited_folder_can_choose_a_method_again(calibrated: Path, tmp_path: Path) -> None:
    edited, chosen = tmp_path / "edited", tmp_path / "chosen"
    assert call("ranges", calibrated, "--set", "*=9", "--out", edited).code == 0
    assert call("calibrate", edited, "--method", "best", "--out", chosen).code == 0
    assert changed(calibrated, chosen) == {}
    told = call("ranges", chosen, "--json").value["ranges"]
    assert {row["method"] for row in told if row["source"] == "calibrated"} == {"best"}


def test_two_folders_side_by_side_the_largest_change_first(
    calibrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    other, query = tmp_path / "other", "bert.encoder.layer.0.attention.self.query_quantizer"
    sets = ("--set", f"{FFN}=x0.5", "--set", f"{query}=x4")
    assert call("ranges", calibrated, *sets, "--out", other).code == 0
    done = call("ranges", calibrated, "--diff", other, "--json")
    found = done.value
    assert [(each["name"], each["ratio"]) for each in found["changed"]] == [
        (query, pytest.approx(4.0)),
        (FFN, pytest.approx(0.5)),
    ]
    assert (found["unchanged"], found["only_here"], found["only_there"]) == (28, [], [])
    assert done.out.startswith(f"{calibrated} and {other}: 2 ranges differ, 28 are equal\n")
    assert max(map(len, done.out.splitlines()[1:-1])) <= 80


def test_quantizers_only_one_folder_has_are_named(calibrated: Path, tmp_path: Path) -> None:
    model = tiny_bert()
    wrap(model, "linear")
    calibrate(model, tiny_batches(), settings=CalibrationSettings(method="max"))
    linear = save_calibrated(model, tmp_path / "linear")
    done = call("ranges", linear, *TASK, "--diff", calibrated, "--json")
    found = done.value
    layers = [f"bert.encoder.layer.{number}" for number in range(2)]
    here = ("attention.self.hidden_quantizer", "intermediate.dense.input_quantizer")
    there = (
        *("attention.hidden_quantizer", "attention.self.query_quantizer", "attention.self.key_quantizer"),
        *("attention.self.value_quantizer", "attention.self.probs_quantizer", "ffn_quantizer"),
        "intermediate.dense.product_quantizer",
    )
    assert sorted(found["only_here"]) == sorted(f"{layer}.{name}" for layer in layers for name in here)
    assert sorted(found["only_there"]) == sorted(f"{layer}.{name}" for layer in layers for name in there)
    assert f"only in {linear}: 4" in done.out
    assert f"only in {calibrated}: 14" in done.out


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            "4.5",
            "--set '4.5' is no edit of ranges: write --set 'PATTERN=VALUE', the value a range such as 4.5, a factor "
            "such as x0.8, or a method such as max",
        ),
        (
            "*ffn*=maxx",
            "--set '*ffn*=maxx': 'maxx' is neither a range (4.5) nor a factor (x0.8) nor a method: did you mean "
            "'max'? known: best, entropy, max, mse, percentile",
        ),
        ("*ffn*=-1", "--set '*ffn*=-1': a range or factor must be above 0 and finite, -1 given"),
        ("*ffn*=xinf", "--set '*ffn*=xinf': a range or factor must be above 0 and finite, xinf given"),
        ("*ffn*=nan", "--set '*ffn*=nan': a range or factor must be above 0 and finite, nan given"),
        (
            "encoder.layer.1.fnn_quantizer=4.5",
            "--set 'encoder.layer.1.fnn_quantizer=4.5' matches no range: the nearest are "
            "encoder.layer.1.ffn_quantizer, encoder.layer.0.ffn_quantizer, "
            "encoder.layer.1.attention.hidden_quantizer",
        ),
        (
            "*dense.weight*=max",
            "--set '*dense.weight*=max' matches ranges of weights only "
            "('bert.encoder.layer.0.attention.output.dense.weight_quantizer'): they follow the weights and cannot be "
            "set; name activations",
        ),
        (
            "*probs*=0.5",
            "--set '*probs*=0.5' matches fixed ranges only ('bert.encoder.layer.0.attention.self.probs_quantizer'): "
            "attention probabilities lie in [0, 1] and keep 1",
        ),
    ],
)
def test_edits_that_are_refused(calibrated: Path, tmp_path: Path, edit: str, message: str) -> None:
    done = call("ranges", calibrated, "--set", edit, "--out", tmp_path / "out")
    assert (done.code, done.out, done.err) == (2, "", f"qdq: {message}\n")
    assert not (tmp_path / "out").exists()


def test_a_folder_is_not_edited_in_place(calibrated: Path) -> None:
    before = list_tree(calibrated)
    for out in (calibrated, calibrated / ".." / "calibrated", calibrated.parent):
        done = call("ranges", calibrated, "--set", "*=max", "--out", out)
        assert (done.code, done.err) == (
            2,
            f"qdq: --out {out} is or holds the folder itself: ranges are never edited in place, give another\n",
        )
    assert list_tree(calibrated) == before


def test_a_method_needs_candidates(shared: Path, tmp_path: Path) -> None:
    done = call("ranges", shared, *TASK, "--set", "*=mse", "--out", tmp_path / "out")
    assert (done.code, done.err) == (
        2,
        f"qdq: {shared} keeps no candidates to choose from: calibrate the float checkpoint with --method all, "
        "or with the method you want\n",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--set", "*=1", "--diff", "other"), "--diff compares and --set edits: give one of them"),
        (("--set", "*=1"), "--set writes a new folder: add --out"),
        (("--out", "new"), "--out is where edited ranges go: add --set 'PATTERN=VALUE'"),
    ],
)
def test_options_that_do_not_go_together(calibrated: Path, options: tuple[str, ...], message: str) -> None:
    done = call("ranges", calibrated, *options)
    assert (done.code, done.out, done.err) == (2, "", f"qdq: {message}\n")


def test_a_float_checkpoint_has_no_ranges(workspace: Workspace) -> None:
    done = call("ranges", workspace.checkpoint)
    assert (done.code, done.err) == (
        2,
        f"qdq: {workspace.checkpoint} is a float checkpoint: run qdq calibrate on it first\n",
    )


def test_a_wrapped_checkpoint_without_ranges(tmp_path: Path) -> None:
    model = tiny_bert()
    wrap(model)
    folder = save_calibrated(model, tmp_path / "wrapped")
    done = call("ranges", folder, *TASK)
    assert (done.code, done.err) == (
        2,
        f"qdq: {folder} has no ranges yet: run qdq calibrate on the float checkpoint\n",
    )


def test_damaged_evidence(calibrated: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for name, content in list_tree(calibrated).items():
        (damaged / name).write_bytes(content)
    (damaged / "evidence.json").write_text('{"ranges": 1}')
    done = call("ranges", damaged)
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        f"qdq: {damaged}/evidence.json is damaged ('int' object has no attribute 'items'): "
        "calibrate the float checkpoint again\n"
    )


def test_scales_follow_edited_ranges(calibrated: Path, tmp_path: Path) -> None:
    assert call("ranges", calibrated, "--set", f"{FFN}=12.7", "--out", tmp_path / "out").code == 0
    rows = {row["name"]: row for row in call("ranges", tmp_path / "out", "--json").value["ranges"]}
    assert rows[FFN]["scale"] == float(torch.tensor(0.1).half())
