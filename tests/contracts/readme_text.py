"""The READMEs as their contract sees them: fenced blocks, the commands in them, and the annotated tree."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from tests.contracts.source_tree import ROOT

SHELLS = {"console", "bash"}
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ENDS_A_COMMAND = {"&&", "||", "|", ";", ">", ">>", "&"}
_TREE_LINE = re.compile(r"^(?P<lead>[\s│├└─]*)(?P<name>[\w.*/-]+)(?P<gap>\s{2,}(?P<note>\S.*))?$")


@dataclass(frozen=True)
class Command:
    """One command of a shell block, as the words a shell would see."""

    words: tuple[str, ...]

    @property
    def make_targets(self) -> tuple[str, ...]:
        """What ``make`` is asked for; empty for another command."""
        if self.words[0] != "make":
            return ()
        return tuple(word for word in self.words[1:] if "=" not in word and not word.startswith("-"))

    @property
    def qdq_words(self) -> tuple[str, ...] | None:
        """What follows ``qdq``, however it is started; None for another command."""
        for place, word in enumerate(self.words):
            started_as_module = word == "qdq" and place > 0 and self.words[place - 1] == "-m"
            if started_as_module or (place == 0 and word.rpartition("/")[2] == "qdq"):
                return self.words[place + 1 :]
        return None


@cache
def fenced_blocks() -> tuple[tuple[str, str], ...]:
    """Every fenced block of the README and of the benchmarks': its language and its text."""
    texts = ((ROOT / folder / "README.md").read_text(encoding="utf-8") for folder in (".", "benchmarks"))
    return tuple((match[1], match[2]) for text in texts for match in _FENCE.finditer(text))


def commands() -> list[Command]:
    """Every command of the shell blocks; in a ``console`` block, what follows the prompt ``$``."""
    return [command for language, text in fenced_blocks() if language in SHELLS for command in _read(language, text)]


def _read(language: str, text: str) -> Iterator[Command]:
    for line in text.replace("\\\n", " ").splitlines():
        if language == "console" and not line.startswith("$ "):
            continue
        yield from _split(shlex.split(line.removeprefix("$ "), comments=True))


def _split(words: list[str]) -> Iterator[Command]:
    current: list[str] = []
    for word in [*words, ";"]:
        if word not in _ENDS_A_COMMAND:
            current.append(word)
            continue
        while current and re.match(r"[A-Z_]+=", current[0]):  # settings of the environment
            current.pop(0)
        if current:
            yield Command(tuple(current))
        current = []


def annotated_tree() -> list[str]:
    """The paths of the annotated tree, relative to the project's root.

    The tree is the one ``text`` block that has a line for ``pyproject.toml``: one path a line, children indented below
    their folder (box-drawing characters are welcome), two blanks or more before the note. A note may run on, on lines
    of its own, below where it began.
    """
    (tree,) = [text for language, text in fenced_blocks() if language == "text" and _names(text, "pyproject.toml")]
    return list(_paths(tree))


def _names(text: str, name: str) -> bool:
    return any(line.lstrip(" │├└─").split(" ")[0] == name for line in text.splitlines())


def _paths(tree: str) -> Iterator[str]:
    above: list[tuple[int, str]] = []
    note_column = len(tree)
    for line in tree.splitlines():
        depth = len(line) - len(line.lstrip(" │├└─"))
        if not line.strip(" │") or depth >= note_column:
            continue
        match = _TREE_LINE.match(line)
        assert match, f"a line of the tree that is no path with a note: {line!r}"
        note_column = match.start("note") if match["note"] else note_column
        above = [(column, name) for column, name in above if column < depth]
        above.append((depth, match["name"].rstrip("/")))
        path = "/".join(name for _, name in above).removeprefix("./").removeprefix("qdq/")
        if path not in {".", "qdq"}:
            yield path
