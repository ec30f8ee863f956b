"""How large a file, a function and a signature may be, and names that say nothing."""

import ast
import statistics
from collections.abc import Iterator

from tests.contracts.source_tree import Module, modules_of_tests, product_modules

FILE_LINES = 400
MEDIAN_FILE_LINES = 150
FUNCTION_LINES = 60
PARAMETERS = 6

EMPTY_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}

SIGNATURES_OF_OTHERS = {
    "forward": "torch and transformers call it",
    "quantized_attention": "transformers calls it, through its attention interface",
    "relative_attention": "likewise",
}
"""Functions whose parameters we do not choose, each with who does."""

COMMAND_MODULES = ("commands", "_command", "qdq")
"""Here a parameter is an option of the command line, and DESIGN fixes how many there are."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _functions(module: Module) -> Iterator[Function]:
    return (node for node in ast.walk(module.tree) if isinstance(node, Function))


def _body_lines(function: Function) -> int:
    first = function.body[0]
    documented = ast.get_docstring(function, clean=False) is not None
    docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


def _parameter_count(function: Function) -> int:
    given = function.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    variadic = [argument for argument in (given.vararg, given.kwarg) if argument is not None]
    return len([argument for argument in (*named, *variadic) if argument.arg not in {"self", "cls"}])


def test_files_are_short() -> None:
    sizes = {module.place: module.text.count("\n") for module in (*product_modules(), *modules_of_tests())}

    assert {place: size for place, size in sizes.items() if size > FILE_LINES} == {}


def test_most_files_are_shorter_still() -> None:
    sizes = [module.text.count("\n") for module in product_modules()]

    assert statistics.median(sizes) <= MEDIAN_FILE_LINES


def test_functions_are_short() -> None:
    wrong = [
        f"{module.place}:{function.lineno} {function.name}: {_body_lines(function)} lines"
        for module in (*product_modules(), *modules_of_tests())
        for function in _functions(module)
        if _body_lines(function) > FUNCTION_LINES
    ]

    assert wrong == [], f"at most {FUNCTION_LINES} lines, the docstring not counted"


def test_functions_take_few_parameters() -> None:
    wrong = [
        f"{module.place}:{function.lineno} {function.name}: {_parameter_count(function)} parameters"
        for module in product_modules()
        if not module.path.stem.endswith(COMMAND_MODULES)
        for function in _functions(module)
        if _parameter_count(function) > PARAMETERS and function.name not in SIGNATURES_OF_OTHERS
    ]

    assert wrong == [], f"at most {PARAMETERS} parameters; join those that travel together in a frozen dataclass"


def test_names_of_modules_say_what_they_hold() -> None:
    wrong = [
        module.place
        for module in (*product_modules(), *modules_of_tests())
        if EMPTY_NAMES.intersection(module.name.split("."))
    ]

    assert wrong == []
