"""Results on disk, by name and date, and which function draws which table of the READMEs."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qat.errors import DataError, suggest

Result = Mapping[str, Any]

RESULTS = Path(__file__).parents[1] / "results"


@dataclass(frozen=True, slots=True)
class Results:
    """A folder of result files called ``<what>_<hardware>_<date>.json``."""

    folder: Path = RESULTS

    def read(self, name: str) -> Result:
        """The newest result of ``<what>_<hardware>``.

        Raises:
            DataError: there is none.
        """
        found = [path for path in self.paths() if path.stem.rpartition("_")[0] == name]
        if not found:
            known = {path.stem.rpartition("_")[0] for path in self.paths()}
            raise DataError(f"no result '{name}' in {self.folder}: {suggest(name, known)}")
        newest: Result = json.loads(max(found).read_text(encoding="utf-8"))
        return newest

    def paths(self) -> list[Path]:
        """Every result file."""
        return sorted(self.folder.glob("*.json"))


Draw = Callable[[Results], str]

TABLES: dict[str, Draw] = {}
"""What draws each table, by the name its markers have."""


def readme_table(name: str) -> Callable[[Draw], Draw]:
    """A decorator that registers a function as what draws the table ``name``."""

    def register(draw: Draw) -> Draw:
        TABLES[name] = draw
        return draw

    return register


def draw_table(name: str, results: Results) -> str:
    """The text of a registered table.

    Raises:
        DataError: no such table, or a result it is made of is missing.
    """
    if name not in TABLES:
        raise DataError(f"no table is called '{name}': {suggest(name, TABLES)}")
    return TABLES[name](results)
