"""Rules decide about readers, and readers about slots."""

import pytest

from qat.errors import RecipeError
from qat.families import find_family
from qat.families.base import Activation, Point, Reader
from qat.placement import RuleBook, choose_points
from qat.recipe import Recipe, Role, Rule, Sharing
from tests.tiny import tiny_bert

A, B, C = Reader("a", "input"), Reader("b", "input"), Reader("c", "residual")
SHARED = Activation(
    points=(
        Point("all", "slot", (A, B, C)),
        Point("pair", "slot", (A, B)),
        Point("a", "slot", (A,)),
        Point("b", "slot", (B,)),
        Point("c", "slot", (C,)),
    )
)
BOUND = Activation(points=(Point("all", "slot", (A, C)), Point("a", "slot", (A,))))
"""One whose reader ``c`` has no slot of its own, as ALBERT's residuals."""


def make_recipe(*rules: tuple[str, tuple[Role, ...], bool], sharing: Sharing = "tensor") -> Recipe:
    made = tuple(Rule(layers=layers, roles=roles, quantize=quantize) for layers, roles, quantize in rules)
    return Recipe(name="mine", sharing=sharing, rules=made)


def owners(activation: Activation, *quantized: Reader, sharing: Sharing = "tensor") -> list[str]:
    recipe = make_recipe(("*", ("input",), True), sharing=sharing)
    return [point.owner for point in choose_points(activation, frozenset(quantized), recipe)]


def test_as_few_slots_as_serve_the_readers() -> None:
    assert owners(SHARED, A, B, C) == ["all"]
    assert owners(SHARED, A, B) == ["pair"]
    assert owners(SHARED, B, C) == ["b", "c"]
    assert owners(SHARED, C) == ["c"]
    assert owners(SHARED) == []


def test_a_slot_for_each_reader_where_nothing_is_shared() -> None:
    assert owners(SHARED, A, B, C, sharing="reader") == ["a", "b", "c"]
    assert owners(SHARED, A, C, sharing="reader") == ["a", "c"]


def test_a_family_without_single_slots_shares_all_the_same() -> None:
    assert owners(BOUND, A, C, sharing="reader") == ["all"]
    assert owners(BOUND, A, sharing="reader") == ["a"]


def test_a_reader_that_no_slot_serves_alone() -> None:
    with pytest.raises(RecipeError) as caught:
        owners(BOUND, C)
    assert str(caught.value) == (
        "recipe 'mine' quantizes c (residual) but not the other readers of the same tensor, and this family has no "
        "place for that: quantize the inputs that read it as well, or leave this one float"
    )


def test_the_last_rule_that_matches_decides() -> None:
    recipe = make_recipe(
        ("*", ("input", "weight"), True), ("encoder.layer.1.*", ("input",), False), ("*.output.*", ("input",), True)
    )
    book = RuleBook(recipe, "bert")

    def verdict(module: str, role: Role) -> tuple[bool, str]:
        decision = book.decide(Reader(f"bert.{module}", role))
        return decision.quantized, decision.reason

    assert verdict("encoder.layer.0.intermediate.dense", "input") == (True, "rule 1 of recipe 'mine'")
    assert verdict("encoder.layer.1.intermediate.dense", "input") == (False, "rule 2 of recipe 'mine'")
    assert verdict("encoder.layer.1.intermediate.dense", "weight") == (True, "rule 1 of recipe 'mine'")
    assert verdict("encoder.layer.1.output.dense", "input") == (True, "rule 3 of recipe 'mine'")
    assert verdict("encoder.layer.1.output", "residual") == (False, "no rule of recipe 'mine' asks for it")


@pytest.mark.parametrize("layers", ["encoder.layer.0.*", "bert.encoder.layer.0.*"])
def test_paths_count_with_and_without_the_models_own_prefix(layers: str) -> None:
    book = RuleBook(make_recipe((layers, ("input",), True)), "bert")
    assert book.decide(Reader("bert.encoder.layer.0.output.dense", "input")).quantized
    assert not book.decide(Reader("bert.encoder.layer.1.output.dense", "input")).quantized


def test_a_rule_that_matches_nothing_is_named_with_paths_that_exist() -> None:
    model = tiny_bert()
    family = find_family("bert")
    readers = [
        reader
        for name, layer in family.layers(model)
        for activation in family.plan(name, layer, model).activations
        for reader in activation.readers
    ]
    book = RuleBook(make_recipe(("*", ("input",), True), ("encoder.layers.*", ("input", "weight"), False)), "bert")
    for reader in readers:
        book.decide(reader)
    with pytest.raises(RecipeError) as caught:
        book.require_all_matched(readers)
    assert str(caught.value) == (
        "rule 2 of recipe 'mine' (layers 'encoder.layers.*', roles input, weight) matches nothing: module paths here "
        "look like encoder.layer.0.attention.output, encoder.layer.0.attention.output.dense, "
        "encoder.layer.0.attention.self, encoder.layer.0.attention.self.key, ..."
    )


def test_a_rule_that_another_overrides_has_matched() -> None:
    book = RuleBook(make_recipe(("*", ("input",), True), ("*", ("input",), False)), "bert")
    assert not book.decide(A).quantized
    book.require_all_matched([A])
