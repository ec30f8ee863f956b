"""Rows as Markdown."""

from collections.abc import Sequence


def draw_rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    r"""A table of Markdown; cells that would end one are escaped.

    >>> print(draw_rows(("", "a"), [("x", "1|2"), ("y", "")]), end="")
    | | a |
    |---|---|
    | x | 1\|2 |
    | y | |
    """
    return "".join([_line(head), "|" + "---|" * len(head) + "\n", *map(_line, rows)])


def fence(text: str) -> str:
    r"""Text as a block that is shown as it is.

    >>> fence("a\nb")
    '```text\na\nb\n```\n'
    """
    return f"```text\n{text}\n```\n"


def _line(cells: Sequence[str]) -> str:
    texts = (" ".join(cell.split()).replace("|", "\\|") for cell in cells)
    return "|" + "".join(f" {text} |" if text else " |" for text in texts) + "\n"
