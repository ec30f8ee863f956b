"""``qdq sensitivity``: what it prints, writes and refuses, and the price it asks of an engine."""

from pathlib import Path

import pytest

from benchmarks.sensitivity import EnginePlans
from calibration.calibrate import calibrate
from calibration.front import price_group
from calibration.sensitivity import keep_float, list_groups
from qat.huggingface import quantization_config, wrap
from qat.recipe import Recipe
from tests.calibrated import make_calibrated, tiny_batches
from tests.test_command_line.calling import Done, Workspace, call
from tests.tiny import tiny_bert

Chain = tuple[Path, dict[str, Done]]


def test_it_measures_every_group_and_leaves_recipe_and_picture(
    chain: Chain, workspace: Workspace, tmp_path: Path
) -> None:
    recipe, picture = tmp_path / "mixed.toml", tmp_path / "harm.svg"
    done = call(
        *("sensitivity", chain[0] / "calibrated", "--data", workspace.train, "--limit", 16, "--max-drop", "0.5%"),
        *("--recipe-out", recipe, "--plot", picture, "--json"),
    )
    assert (done.code, done.err) == (0, "")
    assert set(done.value) == {
        "float_metric", "quantized_metric", "quantized_error", "groups", "keep_float", "metric", "reached",
        "metric_name",
    }  # fmt: skip
    harms = [row["harm"] for row in done.value["groups"]]
    assert len(harms) == 12
    assert harms == sorted(harms, reverse=True)
    assert Recipe.load(recipe).rules[: len(Recipe.load("tensorrt").rules)] == Recipe.load("tensorrt").rules
    assert "</svg>" in picture.read_text(encoding="utf-8")
    assert "keep in float: " in done.out


def test_without_a_drop_nothing_is_chosen(chain: Chain, workspace: Workspace) -> None:
    done = call("sensitivity", chain[0] / "calibrated", "--data", workspace.train, "--limit", 8, "--json")
    assert set(done.value) == {"metric_name", "float_metric", "quantized_metric", "quantized_error", "groups"}
    assert "keep in float" not in done.out


@pytest.mark.parametrize("text", ["half", "-1%", "100%", "1", "nan"])
def test_a_drop_that_is_no_share_is_refused(chain: Chain, workspace: Workspace, text: str) -> None:
    done = call("sensitivity", chain[0] / "calibrated", "--data", workspace.train, "--max-drop", text)
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        f"qdq: --max-drop {text} is no share: expected a percentage such as 0.5%, or a number such as 0.005\n"
    )


def test_a_recipe_without_a_drop_is_refused(chain: Chain, workspace: Workspace, tmp_path: Path) -> None:
    arguments = ("sensitivity", chain[0] / "calibrated", "--data", workspace.train, "--recipe-out", tmp_path / "r.toml")
    done = call(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err == "qdq: --recipe-out needs to know how much may be lost: add --max-drop 0.5%\n"


def test_a_float_feed_forward_costs_the_engine_bytes_and_one_build_serves_every_layer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make_calibrated(tiny_bert())
    plans = EnginePlans(model)
    first, second = (group for group in list_groups(model) if group.name.endswith(".intermediate.dense"))
    cost = price_group(plans, first)
    assert cost > 1e-3
    monkeypatch.setattr("benchmarks.sensitivity.build_twin", lambda *_, **__: pytest.fail("built again"))
    assert price_group(plans, second) == cost


def test_a_placement_of_the_plan_is_that_of_its_recipe() -> None:
    model = make_calibrated(tiny_bert(num_hidden_layers=1))
    group = next(each for each in list_groups(model) if each.name.endswith(".intermediate.dense"))
    mixed = tiny_bert(num_hidden_layers=1)
    wrap(mixed, keep_float(quantization_config(model).recipe, [group]))
    calibrate(mixed, tiny_batches(8))
    assert EnginePlans(model)((group,)) == EnginePlans(mixed)(())


def test_the_front_is_printed_and_its_placements_stand_in_the_json(chain: Chain, workspace: Workspace) -> None:
    arguments = ("sensitivity", chain[0] / "calibrated", "--data", workspace.train, "--limit", 8)
    done = call(*arguments, "--front", 3, "--json")
    assert (done.code, done.err) == (0, "")
    assert [len(each["float_groups"]) for each in done.value["front"]] == [0, 6, 12]
    assert all(each["kernels"] > 0 and each["activation_mb"] > 0 for each in done.value["front"])
    assert done.value["front"][0]["error"] == done.value["quantized_error"]
    assert any(each["on_front"] for each in done.value["front"])
    assert all({"activation_mb", "kernels"} <= set(row) for row in done.value["groups"])
    assert "Pareto front" in done.out
