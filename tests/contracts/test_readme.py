"""The commands of both READMEs exist, with their options, and its tree is the tree on the disk."""

import re
from functools import cache

from typer.testing import CliRunner

from benchmarks.command_line import app
from tests.contracts.readme_text import Command, annotated_tree, commands
from tests.contracts.source_tree import PACKAGES, ROOT, TOP_LEVEL


@cache
def _help(*subcommand: str) -> str:
    done = CliRunner().invoke(app, [*subcommand, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    assert done.exit_code == 0, f"qdq {' '.join(subcommand)}: {done.output}"
    return done.output


def _options(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", text))


def _unknown_words(words: tuple[str, ...]) -> list[str]:
    subcommand = words[:1] if words and not words[0].startswith("-") else ()
    known = _options(_help(*subcommand))
    return [word for word in words if re.match(r"--?[a-zA-Z]", word) and word.partition("=")[0] not in known]


def _make_targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))


def _shipped_paths(command: Command) -> list[str]:
    return [word for word in command.words if word.partition("/")[0] in {*PACKAGES, "tests"} and "/" in word]


def test_the_readme_has_commands_of_both_kinds() -> None:
    assert any(command.make_targets for command in commands())
    assert any(command.qdq_words for command in commands())


def test_every_make_command_is_a_target() -> None:
    asked = {target for command in commands() for target in command.make_targets}

    assert asked - _make_targets() == set()


def test_every_qdq_command_and_option_exists() -> None:
    asked = [words for command in commands() if (words := command.qdq_words) is not None]

    assert [(" ".join(words), unknown) for words in asked if (unknown := _unknown_words(words))] == []


def test_every_shipped_path_in_a_command_exists() -> None:
    asked = {path for command in commands() for path in _shipped_paths(command)}

    assert {path for path in asked if not (ROOT / path).exists()} == set()


def test_every_path_of_the_tree_exists() -> None:
    assert [path for path in annotated_tree() if not any(ROOT.glob(path))] == []


def test_the_tree_shows_the_whole_top_level() -> None:
    shown = {path.partition("/")[0] for path in annotated_tree()}

    assert TOP_LEVEL - shown == set()
