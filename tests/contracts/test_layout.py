"""The top level is closed, and every module says what it is for."""

import ast

from tests.contracts.source_tree import GENERATED, ROOT, TOP_LEVEL, modules_of_tests, product_modules

DOTTED = {
    ".ci": {"run", "constraints.txt"},
    ".github": {"CONTRIBUTING.md", "SECURITY.md"},
}


def test_the_top_level_is_closed() -> None:
    present = {
        path.name
        for path in ROOT.iterdir()
        if not path.name.startswith(".") and path.name not in GENERATED and path.suffix != ".egg-info"
    }

    assert present == TOP_LEVEL


def test_the_dotted_folders_hold_what_they_should() -> None:
    assert {folder: {path.name for path in (ROOT / folder).iterdir()} for folder in DOTTED} == DOTTED


def test_every_module_has_a_docstring() -> None:
    written = [module for module in (*product_modules(), *modules_of_tests()) if module.text.strip()]
    silent = [module.place for module in written if len(ast.get_docstring(module.tree) or "") < len("TODO.!")]

    assert silent == []


def test_every_shipped_module_has_text() -> None:
    assert [module.place for module in product_modules() if not module.text.strip()] == []


def test_test_folders_never_shadow_a_package() -> None:
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name != "__pycache__"}

    assert folders & TOP_LEVEL == set(), "name it test_<package>"


def test_results_name_no_folder_of_the_machine_they_were_measured_on() -> None:
    results = sorted((ROOT / "benchmarks" / "results").iterdir())

    assert len(results) > 1
    assert [path.name for path in results if '"/' in path.read_text(encoding="utf-8")] == []
