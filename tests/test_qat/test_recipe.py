"""Recipes: the shipped ones, and every way to write a wrong one."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from qat.errors import RecipeError
from qat.recipe import TARGET_WEIGHTS, Recipe, shipped_recipes

RULE: dict[str, Any] = {"layers": "*", "roles": ["weight", "input"], "quantize": True}
VALUES: dict[str, Any] = {"name": "mine", "rules": [RULE]}


def refusal(values: dict[str, Any]) -> str:
    with pytest.raises(RecipeError) as caught:
        Recipe.from_mapping(values, where="mine.toml")
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_shipped_ones() -> None:
    assert shipped_recipes() == ["lean", "linear", "qdqbert", "tensorrt"]


@pytest.mark.parametrize(
    ("name", "roles", "sharing"),
    [
        ("tensorrt", {"weight", "input", "residual", "attention", "preactivation"}, "tensor"),
        ("lean", {"weight", "input", "residual", "attention", "preactivation", "product"}, "tensor"),
        ("qdqbert", {"weight", "input", "residual", "add_local", "attention"}, "reader"),
        ("linear", {"weight", "input"}, "tensor"),
    ],
)
def test_what_a_shipped_one_quantizes(name: str, roles: set[str], sharing: str) -> None:
    recipe = Recipe.load(name)
    assert (recipe.name, recipe.sharing, recipe.weights, recipe.scale_type) == (name, sharing, "per_channel", "float16")
    assert {role for rule in recipe.rules for role in rule.roles} == roles
    assert all(rule.quantize and rule.layers == "*" for rule in recipe.rules)


def test_a_file_is_read_as_a_shipped_one_is(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\n[[rules]]\nlayers = "*"\nroles = ["weight", "input"]\nquantize = true\n')
    assert Recipe.load(path) == Recipe.load(str(path)) == Recipe.from_mapping(VALUES, where="here")


@pytest.mark.parametrize("name", shipped_recipes())
def test_json_values_give_the_recipe_back(name: str) -> None:
    recipe = Recipe.load(name)
    assert Recipe.from_mapping(recipe.model_dump(mode="json"), where="config.json") == recipe


def test_it_is_frozen() -> None:
    recipe = Recipe.load("linear")
    with pytest.raises(ValidationError, match="frozen"):
        recipe.name = "other"
    with pytest.raises(ValidationError, match="frozen"):
        recipe.rules[0].quantize = False


def test_an_unknown_name() -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.load("tensort")
    assert str(caught.value) == (
        "recipe 'tensort' is neither shipped nor a file: did you mean 'tensorrt'? "
        "known: lean, linear, qdqbert, tensorrt"
    )


def test_a_file_that_is_not_toml(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("name = ")
    with pytest.raises(RecipeError) as caught:
        Recipe.load(path)
    assert str(caught.value).startswith(f"recipe '{path}' is not TOML: Invalid value")


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(b"name = \xff\x00")
    with pytest.raises(RecipeError, match="is not TOML: "):
        Recipe.load(path)


def test_a_misspelt_key_is_named_with_the_nearest() -> None:
    assert refusal(VALUES | {"wieghts": "per_tensor"}) == (
        "recipe 'mine.toml': unknown key 'wieghts', did you mean 'weights'? "
        "known: name, rules, scale_type, sharing, weight_bits, weight_ranges, weights"
    )


def test_a_misspelt_key_of_a_rule_is_named_with_the_nearest() -> None:
    assert refusal(VALUES | {"rules": [RULE | {"layer": "*"}]}) == (
        "recipe 'mine.toml': unknown key 'rules.0.layer', did you mean 'layers'? known: layers, quantize, roles"
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weights": "per_row"}, "weights: Input should be 'per_channel' or 'per_tensor' ('per_row' given)"),
        ({"scale_type": "bfloat16"}, "scale_type: Input should be 'float16' or 'float32' ('bfloat16' given)"),
        ({"sharing": True}, "sharing: Input should be 'tensor' or 'reader' (True given)"),
        ({"name": 3}, "name: Input should be a valid string (3 given)"),
        ({"rules": []}, "rules: Tuple should have at least 1 item after validation, not 0 ([] given)"),
        (
            {"rules": [RULE | {"roles": ["weights"]}]},
            "rules.0.roles.0: Input should be 'weight', 'input', 'residual', 'add_local', 'attention', 'preactivation' "
            "or 'product' ('weights' given)",
        ),
        ({"rules": [RULE | {"quantize": "yes"}]}, "rules.0.quantize: Input should be a valid boolean ('yes' given)"),
    ],
)
def test_a_wrong_value_is_named_with_the_right_ones(values: dict[str, Any], message: str) -> None:
    assert refusal(VALUES | values) == f"recipe 'mine.toml': {message}"


def test_a_missing_key_is_named() -> None:
    assert refusal({"name": "mine"}).startswith("recipe 'mine.toml': rules: Field required")


def test_all_mistakes_are_told_at_once() -> None:
    message = refusal(VALUES | {"wieghts": "per_tensor", "sharing": "none"})
    assert "unknown key 'wieghts'" in message
    assert "sharing: Input should be" in message


@pytest.mark.parametrize(("target", "weights"), [*TARGET_WEIGHTS.items()])
def test_the_target_picks_the_granularity(target: str, weights: str) -> None:
    assert Recipe.load("tensorrt").for_target(target) == Recipe.load("tensorrt").model_copy(update={"weights": weights})


def test_only_rtx_wants_one_range_a_weight() -> None:
    assert [target for target, weights in TARGET_WEIGHTS.items() if weights == "per_tensor"] == ["rtx"]
    assert set(TARGET_WEIGHTS) >= {"rtx", "tensorrt", "onnxruntime"}


def test_an_unknown_target() -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.load("tensorrt").for_target("tensort")
    assert str(caught.value) == (
        f"target 'tensort' is unknown: did you mean 'tensorrt'? known: {', '.join(sorted(TARGET_WEIGHTS))}"
    )
