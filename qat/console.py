"""What commands print: progress on long work, short tables, one clear line for a mistake, one JSON line at the end."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol
from unicodedata import category

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text


class Advance(Protocol):
    """Called with what is done, how much there is (None where nobody knows) and what is being done."""

    def __call__(self, done: int, total: int | None, phase: str = "") -> None:
        """Shows it."""


class _TimeColumn(ProgressColumn):
    """The time left, or the time taken where the first of several steps, or the only one, is still running."""

    def __init__(self) -> None:
        super().__init__()
        self._left, self._taken = TimeRemainingColumn(), TimeElapsedColumn()

    def render(self, task: Task) -> Text:
        """Minutes and seconds."""
        if task.time_remaining is None:
            return Text.assemble(self._taken.render(task), " so far")
        return Text.assemble(self._left.render(task), " left")


def _open_bars(console: Console, *, transient: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), _TimeColumn())
    return Progress(
        *columns,
        console=console,
        transient=transient,
        redirect_stdout=False,  # results go where they were sent, not to the bar's standard error
        disable=not console.is_terminal,
    )


_CONTROLS = ("Cc", "Cf", "Cs")  # control characters, invisible marks, halves of surrogate pairs
_HARMLESS = "\n\t\u200c\u200d"  # the joiners that scripts and emoji are written with


@contextmanager
def show_progress(label: str) -> Iterator[Advance]:
    """A progress bar with an estimate on standard error, if that is a terminal; the block gets what moves it.

    A new phase begins the bar again. Until it is moved, and where nobody knows how much there is, it tells the time
    taken.
    """
    with _open_bars(Console(stderr=True), transient=True) as bar:
        task, shown = bar.add_task(escape(label), total=None), ""

        def advance(done: int, total: int | None, phase: str = "") -> None:
            nonlocal shown
            if phase != shown:
                shown = phase
                bar.reset(task, description=escape(f"{label}: {phase}" if phase else label))
            bar.update(task, completed=done, total=total)

        yield advance


def say(text: str) -> None:
    """``text`` as a line on standard error, where it does not disturb the result."""
    Console(stderr=True, soft_wrap=True).print(_plain(text))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table on standard output; what comes from data cannot format it."""
    console = Console()
    console.print(_plain(title), soft_wrap=True)  # a table's own title is cut to its width, and titles hold paths
    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(_plain(name), overflow="fold")  # a narrow terminal breaks long names, it never cuts them
    for row in rows:
        table.add_row(*(_plain(format_cell(value)) for value in row))
    console.print(table)


def show_controls(text: str) -> str:
    r"""``text`` with what commands a terminal, or turns the order of letters, spelled out.

    >>> show_controls("ä\x1b[2Jb\u202e")
    'ä\\x1b[2Jb\\u202e'
    """
    return "".join(ascii(c)[1:-1] if category(c) in _CONTROLS and c not in _HARMLESS else c for c in text)


def _plain(text: str) -> Text:
    return Text(show_controls(text))  # Text: no markup, no emoji codes


def format_cell(value: Any) -> str:
    """A value as a table shows it.

    >>> format_cell(0.81252), format_cell(12), format_cell(None)
    ('0.8125', '12', '-')
    """
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def format_json(value: object) -> str:
    r"""``value`` as one line of JSON, letters as they are; what commands a terminal is escaped as JSON escapes it.

    >>> format_json({"label": "ä\x9b31m"})
    '{"label": "ä\\u009b31m"}'
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if text.isprintable():
        return text
    return "".join(json.dumps(c)[1:-1] if category(c) in _CONTROLS and c not in _HARMLESS else c for c in text)


def print_json(value: Mapping[str, Any]) -> None:
    """``value`` as one line of JSON, the last of standard output."""
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")


@contextmanager
def show_stages() -> Iterator[Callable[[str, int, int | None], None]]:
    """Progress bars on standard error, one a stage; the block gets the function that names the stage and moves it.

    Where standard error is no terminal, a line names each stage as it begins.
    """
    bars: dict[str, TaskID] = {}
    console = Console(stderr=True)
    with _open_bars(console, transient=False) as bar:

        def finish() -> None:
            for finished in bars.values():
                size = bar.tasks[finished].total or 1
                bar.update(finished, completed=size, total=size)

        def advance(stage: str, done: int, total: int | None) -> None:
            if stage not in bars:
                if not console.is_terminal:
                    say(f"{stage} ...")
                finish()
                bars[stage] = bar.add_task(escape(stage), total=None)
            if done:
                bar.update(bars[stage], completed=done, total=total)

        yield advance
        finish()
