"""The coverage-guided fuzzer where atheris is not installed, and the names it takes."""

import sys

import pytest

from tests.fuzzing.coverage_guided import find_target, main


def test_without_atheris_it_says_where_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "atheris", None)
    with pytest.raises(SystemExit) as left:
        main(["recipes"])
    assert left.value.code == (
        "coverage-guided fuzzing needs the package atheris, which cannot be imported (import of atheris halted; None "
        "in sys.modules): pip install atheris (CPython 3.11 to 3.13 on x86-64 Linux), or run make soak, which needs "
        "nothing more"
    )


def test_targets_have_names_of_their_own() -> None:
    assert find_target("engine-manifests").name == "engine-manifests"
    with pytest.raises(SystemExit) as left:
        find_target("recipe")
    known = str(left.value.code).removeprefix("no target 'recipe': known: ").split(", ")
    assert len(known) == len(set(known)) == 20
