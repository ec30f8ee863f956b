"""What the tables of a contest share: their width, and how an error is broken into lines of it."""

WIDTH = 80


def wrap_error(text: str) -> list[str]:
    """The text in indented lines of at most 80 columns.

    >>> wrap_error("no way")
    ['    no way']
    """
    lines, current = [], "    "
    for word in text.split():
        if len(current) + len(word) > WIDTH - 1 and current.strip():
            lines.append(current.rstrip())
            current = "    "
        current += f"{word[: WIDTH - 5]} "
    return [*lines, current.rstrip()]
