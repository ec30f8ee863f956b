"""``python -m benchmarks.readme_tables``: both READMEs and the result pages follow the result files."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.readme_tables.blocks import replace_tables
from benchmarks.readme_tables.pages import draw_page
from benchmarks.readme_tables.registry import RESULTS, Results, draw_table
from qat.artefacts import atomic_file
from qat.console import say
from qat.errors import DataError

TEXTS = (RESULTS.parents[1] / "README.md", RESULTS.parent / "README.md")
"""The project's README and the benchmarks': each table stands in one of them."""

app = typer.Typer(
    name="readme_tables", pretty_exceptions_enable=False, help="The tables of both READMEs, from results."
)


@dataclass(frozen=True, slots=True)
class Stale:
    """A file that is out of step with the results.

    Attributes:
        path: where it is, or should be.
        text: what it should hold.
        tables: which of its tables differ; none of a page.
    """

    path: Path
    text: str
    tables: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.path.name + (f" ({', '.join(self.tables)})" if self.tables else "")


@app.command()
def tables_command(
    texts: Annotated[list[Path] | None, typer.Option("--text", help="A text with markers of tables.")] = None,
    folder: Annotated[Path, typer.Option("--results", help="The folder of result files.")] = RESULTS,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail where something is out of step.")] = False,
) -> None:
    """Draw every marked table, and a page beside every result, anew from the result files.

    Example: python -m benchmarks.readme_tables --check
    """
    stale = find_stale(texts or TEXTS, Results(folder))
    names = ", ".join(map(str, stale))
    if check and stale:
        raise DataError(f"out of step with {folder}: {names}: run python -m benchmarks.readme_tables")
    for each in stale:
        with atomic_file(each.path) as staging:
            staging.write_text(each.text, encoding="utf-8")
    say(f"written: {names}" if stale else f"in step with {folder}")


def find_stale(texts: Sequence[Path], results: Results) -> list[Stale]:
    """Every file that is out of step with the results: of the texts, and the pages beside results.

    Raises:
        DataError: a marked table that cannot be drawn, or markers that do not fit.
    """
    stale: list[Stale] = []
    for each in texts:
        text, tables = replace_tables(each.read_text(encoding="utf-8"), lambda name: draw_table(name, results))
        if tables:
            stale.append(Stale(each, text, tuple(tables)))
    for path in results.paths():
        page = Stale(path.with_suffix(".md"), draw_page(path, json.loads(path.read_text(encoding="utf-8"))))
        if not page.path.is_file() or page.path.read_text(encoding="utf-8") != page.text:
            stale.append(page)
    return stale
