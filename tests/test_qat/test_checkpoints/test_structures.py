"""Relative positions and pruned heads as transformers 4 saved them: values and answers its own."""

from pathlib import Path

import pytest

from tests.test_qat.test_checkpoints.reference import largest_difference, load_fixture, named, wrong_weights
from tests.tolerances import FORMULA


@pytest.mark.parametrize("name", named("torch"))
def test_values_and_answers_are_those_of_transformers_4(name: str, tmp_path: Path) -> None:
    model = load_fixture(name, tmp_path / "folder").model
    assert wrong_weights(name, model) == set()
    assert largest_difference(name, model) < FORMULA.value


def test_there_is_a_fixture_of_each_kind() -> None:
    relative = {f"{family}-{kind}" for family in ("albert", "bert") for kind in ("relative-key", "relative-key-query")}
    assert {name.removeprefix("torch-") for name in named("torch")} == {*relative, "albert-pruned", "bert-pruned"}
