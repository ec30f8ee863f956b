"""``python -m benchmarks.readme_tables``: README and result pages follow the result files."""

import json
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

README = RESULTS.parents[1] / "README.md"

app = typer.Typer(name="readme_tables", pretty_exceptions_enable=False, help="The README's tables, from results.")


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
    readme: Annotated[Path, typer.Option("--readme", help="The text with the tables' markers.")] = README,
    folder: Annotated[Path, typer.Option("--results", help="The folder of result files.")] = RESULTS,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail where something is out of step.")] = False,
) -> None:
    """Draw every marked table, and a page beside every result, anew from the result files.

    Example: python -m benchmarks.readme_tables --check
    """
    stale = find_stale(readme, Results(folder))
    names = ", ".join(map(str, stale))
    if check and stale:
        raise DataError(f"out of step with {folder}: {names}: run python -m benchmarks.readme_tables")
    for each in stale:
        with atomic_file(each.path) as staging:
            staging.write_text(each.text, encoding="utf-8")
    say(f"written: {names}" if stale else f"in step with {folder}")


def find_stale(readme: Path, results: Results) -> list[Stale]:
    """Every file that is out of step with the results: the README, and the pages beside results.

    Raises:
        DataError: a marked table that cannot be drawn, or markers that do not fit.
    """
    text, tables = replace_tables(readme.read_text(encoding="utf-8"), lambda name: draw_table(name, results))
    stale = [Stale(readme, text, tuple(tables))] if tables else []
    for path in results.paths():
        page = Stale(path.with_suffix(".md"), draw_page(path, json.loads(path.read_text(encoding="utf-8"))))
        if not page.path.is_file() or page.path.read_text(encoding="utf-8") != page.text:
            stale.append(page)
    return stale
