"""Every command: an example in its help, JSON where asked for, progress on long work, help that fits 80 columns."""

import inspect
import re
import shlex
import subprocess
import sys
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks import command_line
from benchmarks.command_line import app, load_command
from tests.test_command_line.calling import call

COMMANDS: dict[str, Any] = {name: load_command(name) for name in command_line.COMMANDS}
AT_ONCE = {"families"}
"""Commands that are done before a bar could be read."""


def lines_of(text: str) -> list[str]:
    """The lines of help that hold an example."""
    return [line.strip() for line in text.splitlines() if line.strip().startswith("Example:")]


def examples(name: str) -> list[list[str]]:
    """The words of each example in a command's help."""
    return [shlex.split(line.removeprefix("Example:")) for line in lines_of(COMMANDS[name].help or "")]


def options(name: str) -> set[str]:
    return {each for parameter in COMMANDS[name].params for each in parameter.opts}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_listed_by_the_first_line_of_its_help(name: str) -> None:
    assert command_line.COMMANDS[name].summary == COMMANDS[name].help.splitlines()[0]


@pytest.mark.parametrize("words", [["--help"], ["callibrate"], ["--show-completion"]])
def test_what_calls_no_command_imports_no_model_library(words: list[str]) -> None:
    asked = (
        "import sys\n"
        "from benchmarks.command_line import run\n"
        "try:\n    run()\n"
        "finally:\n    print([name for name in ('torch', 'transformers', 'onnx', 'numpy') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", asked, *words], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_with_options_that_exist(name: str) -> None:
    assert examples(name)
    for words in examples(name):
        assert words[:2] == ["qdq", name]
        assert {word for word in words if word.startswith("--")} <= options(name)


@pytest.mark.parametrize("name", COMMANDS)
def test_an_example_is_a_line_of_its_own(name: str) -> None:
    shown = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}).output
    assert lines_of(shown) == lines_of(COMMANDS[name].help or "")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_80_columns(name: str) -> None:
    shown = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}).output
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_ends_with_json_where_asked_for(name: str) -> None:
    assert "--json" in options(name)


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - AT_ONCE))
def test_a_command_that_works_long_shows_progress(name: str) -> None:
    module: Any = inspect.getmodule(COMMANDS[name].callback.__wrapped__)
    source = inspect.getsource(module)
    assert re.search(r"\bshow_(progress|stages)\(", source)


@pytest.mark.parametrize(
    ("shell", "words"),
    [
        ("bash", {"COMP_WORDS": "qdq cal", "COMP_CWORD": "1"}),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "qdq cal"}),
        ("fish", {"_TYPER_COMPLETE_ARGS": "qdq cal", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}),
    ],
)
def test_a_shell_completes_commands(shell: str, words: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"_QDQ_COMPLETE": f"complete_{shell}", **words}.items():
        monkeypatch.setenv(name, value)
    done = call()
    assert done.code == 0
    assert "calibrate" in done.out
    assert "evaluate" not in done.out


@pytest.mark.parametrize(("words", "found"), [("qdq audit --fail", "--fail-under"), ("qdq audti --fail", "")])
def test_a_shell_completes_options_of_commands_there_are(
    words: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"_QDQ_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "2"}.items():
        monkeypatch.setenv(name, value)
    done = call()
    assert (done.code, done.out.strip()) == (0, found)
