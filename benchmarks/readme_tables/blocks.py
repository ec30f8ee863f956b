"""Tables between markers, in a text: ``<!-- table: NAME -->``, the table, ``<!-- end -->``."""

import re
from collections.abc import Callable

from qat.errors import DataError

_OPENING = re.compile(r"^<!-- table: (?P<name>.*?) -->\n", re.MULTILINE)
_END = "<!-- end -->\n"


def replace_tables(text: str, draw: Callable[[str], str]) -> tuple[str, list[str]]:
    r"""The text with every table as ``draw`` has it, and the names of those that were otherwise.

    Args:
        text: with markers on lines of their own.
        draw: a table's name becomes its text.

    Raises:
        DataError: a table has no end, or stands there twice.

    >>> replace_tables("a\n<!-- table: b -->\nold\n<!-- end -->\nc\n", lambda name: "new\n")
    ('a\n<!-- table: b -->\n\nnew\n\n<!-- end -->\nc\n', ['b'])
    """
    parts: list[str] = []
    stale: dict[str, bool] = {}
    at = 0
    while opening := _OPENING.search(text, at):
        name, start = opening["name"], opening.end()
        following = _OPENING.search(text, start)
        end = text.find(_END, start, following.start() if following else len(text))
        if end < 0:
            raise DataError(f"the table '{name}' has no end: put {_END.strip()} on a line of its own below it")
        if name in stale:
            raise DataError(f"the table '{name}' stands there twice: take its markers away at one of the two places")
        drawn = f"\n{draw(name)}\n"
        stale[name] = text[start:end] != drawn
        parts += [text[at:start], drawn]
        at = end
    return "".join([*parts, text[at:]]), [name for name, changed in stale.items() if changed]
