"""The names a user's script may rely on: present, lazy, documented and typed."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest

import qdq

VERBS = (
    *("convert", "wrap", "unwrap", "calibrate", "finetune", "export", "build", "audit", "lint"),
    *("compare", "evaluate", "benchmark", "load_runner", "predict"),
)
NOUNS = ("Recipe", "QDQConfig", "QATTrainer", "Predictor")
PUBLIC = (*VERBS, *NOUNS)


def _unannotated(function: Callable[..., Any]) -> list[str]:
    signature = inspect.signature(function)
    silent = [name for name, given in signature.parameters.items() if given.annotation is inspect.Parameter.empty]
    return [*silent, "return"] if signature.return_annotation is inspect.Signature.empty else silent


def test_all_lists_exactly_the_public_names() -> None:
    assert sorted(qdq.__all__) == sorted(PUBLIC)


def test_dir_shows_the_public_names_before_they_are_loaded() -> None:
    assert set(PUBLIC) <= set(dir(qdq))


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_documented(name: str) -> None:
    docstring = inspect.cleandoc(getattr(qdq, name).__doc__ or "")

    assert docstring.partition("\n")[0].endswith(".")


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_is_a_function_annotated_in_full(name: str) -> None:
    found = getattr(qdq, name)

    assert inspect.isfunction(found)
    assert _unannotated(found) == []


@pytest.mark.parametrize("name", NOUNS)
def test_a_noun_is_a_class(name: str) -> None:
    assert inspect.isclass(getattr(qdq, name))


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_takes_its_flags_by_name(name: str) -> None:
    parameters = inspect.signature(getattr(qdq, name)).parameters.values()
    flags = [given for given in parameters if isinstance(given.default, bool)]

    assert [given.name for given in flags if given.kind is not inspect.Parameter.KEYWORD_ONLY] == []


def test_an_unknown_name_is_an_attribute_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match="calibrat"):
        qdq.calibrat  # noqa: B018
