"""What commands print: progress on long work, short tables, one clear line for a mistake, one JSON line at the end."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unicodedata import category

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

Advance = Callable[[int, int], None]
"""Called with what is done and how much there is."""

_CONTROLS = ("Cc", "Cf", "Cs")  # control characters, invisible marks, halves of surrogate pairs
_HARMLESS = "\n\t\u200c\u200d"  # the joiners that scripts and emoji are written with


@contextmanager
def show_progress(label: str) -> Iterator[Advance]:
    """A progress bar with an estimate on standard error, if that is a terminal; the block gets what moves it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(escape(label), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


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


def print_json(value: Mapping[str, Any]) -> None:
    """``value`` as one line of JSON, the last of standard output."""
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")


@contextmanager
def show_stages() -> Iterator[Callable[[str, int, int], None]]:
    """Progress bars on standard error, one a stage; the block gets the function that names the stage and moves it.

    Where standard error is no terminal, a line names each stage as it begins.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bars: dict[str, TaskID] = {}
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:

        def advance(stage: str, done: int, total: int) -> None:
            if stage not in bars:
                if not console.is_terminal:
                    say(f"{stage} ...")
                for finished in bars.values():
                    size = bar.tasks[finished].total or 1
                    bar.update(finished, completed=size, total=size)
                bars[stage] = bar.add_task(escape(stage), total=None)
            if done:
                bar.update(bars[stage], completed=done, total=total)

        yield advance
        for finished in bars.values():
            size = bar.tasks[finished].total or 1
            bar.update(finished, completed=size, total=size)
