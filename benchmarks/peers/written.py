"""How much a user writes for a peer: the lines of a snippet, which is run on the contest's checkpoint and rows."""

import ast
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers import snippets
from benchmarks.peers.contest import Contest
from benchmarks.peers.environments import find_python
from benchmarks.peers.process import run_process
from benchmarks.peers.row import Peer
from qat.errors import BuildError

_FOLDER = Path(snippets.__file__).parent
_ENTRY = "quantize"


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """One snippet.

    Attributes:
        peer: the peer's name.
        file: its name.
        lines: of code, see :func:`count_lines`.
        wall_s: how long it took, from its start to the artefact; None where it failed.
        error: the last line it wrote where it failed, empty where it did not.
    """

    peer: str
    file: str
    lines: int
    wall_s: float | None
    error: str


def count_lines(name: str) -> int:
    """The lines of code of a snippet: those of its function, imports among them; of a shell script its commands.

    >>> count_lines("qdq.sh")
    2
    """
    text = (_FOLDER / name).read_text(encoding="utf-8")
    if name.endswith(".sh"):
        return sum(bool(line.strip()) and not line.startswith("#") for line in text.splitlines())
    (entry,) = (each for each in ast.parse(text).body if isinstance(each, ast.FunctionDef) and each.name == _ENTRY)
    statements = entry.body[1:]  # the first is the docstring
    numbers = {n for each in statements for n in range(each.lineno, (each.end_lineno or each.lineno) + 1)}
    lines = text.splitlines()
    return sum(bool(lines[number - 1].strip()) for number in numbers)


def run_snippets(
    contest: Contest,
    peers: Sequence[Peer],
    known: Sequence[Written],
    *,
    progress: Callable[[str], None] = lambda name: None,
) -> Iterator[Written]:
    """Every snippet of the peers as soon as it has run, those of an earlier run left out.

    Args:
        contest: checkpoint, data, sizes.
        peers: who takes part.
        known: of an earlier run of this contest.
        progress: called before each with what it is.
    """
    done = {(each.peer, each.file) for each in known}
    for peer in peers:
        for name in peer.snippets:
            if (peer.name, name) not in done:
                progress(f"{peer.title}, {name}")
                yield run_snippet(peer, name, contest)


def run_snippet(peer: Peer, name: str, contest: Contest) -> Written:
    """What became of a snippet, run in the peer's environment; a failure is kept.

    Args:
        peer: whose it is.
        name: the file.
        contest: for the checkpoint, the rows to calibrate on, and the limits of a process.
    """
    lines = count_lines(name)
    try:
        python = find_python(peer, contest.environments)
    except BuildError as missing:
        return Written(peer=peer.name, file=name, lines=lines, wall_s=None, error=str(missing))
    arguments = [str(contest.checkpoint.absolute()), str(contest.data.absolute())]
    with tempfile.TemporaryDirectory(prefix="snippet-") as folder:
        start = time.perf_counter()
        command = [*_interpret(python, name), *arguments, folder]
        error = run_process(command, cwd=Path(folder), threads=contest.threads, minutes=contest.minutes)
        spent = None if error else round(time.perf_counter() - start, 2)
    return Written(peer=peer.name, file=name, lines=lines, wall_s=spent, error=error)


def _interpret(python: Path, name: str) -> list[str]:
    """The program that runs a snippet, before the snippet's own arguments."""
    if not name.endswith(".sh"):
        return [str(python), "-m", f"{snippets.__name__}.{Path(name).stem}"]
    commands = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return [shutil.which("env") or "env", f"PATH={commands}", shutil.which("sh") or "sh", "-e", str(_FOLDER / name)]
