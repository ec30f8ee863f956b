"""Rows on disk or on the hub, read as they are: one mapping a row, columns under the names a task knows.

Values are not converted: what a CSV or TSV file holds stays text, and each task reads its own columns.
"""

import csv
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Self

import pyarrow
import pyarrow.parquet

from qat.errors import DataError, suggest

Row = Mapping[str, object]

_HUB_NAME = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(:(?P<config>[\w.-]+))?:(?P<split>\w[\w.-]*(\[[^\]]*\])?)")
_MOST_FILES_NAMED = 8


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows in order, each a mapping from column to value, and where they came from.

    Attributes:
        records: the rows; a list of dicts, or anything indexed that gives them, as a ``datasets.Dataset``.
        source: what error messages call them.
        first: the number of the first of them in the source, counted from 1.

    >>> rows = Rows([{"text": "a"}, {"text": "b", "label": 1}], source="two rows")
    >>> len(rows), rows[1]["text"], rows.columns
    (2, 'b', ('text', 'label'))
    """

    records: Sequence[Row]
    source: str
    first: int = 1

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Row:
        return self.records[index]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.records)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that at least one row has, in the order they first appear."""
        return tuple(dict.fromkeys(name for row in self.records for name in row))

    def numbered(self) -> Iterator[tuple[int, Row]]:
        """The rows, each with its number in the source."""
        return enumerate(self.records, start=self.first)

    def require_filled(self, columns: Iterable[str]) -> None:
        """Passes where no text in these columns is empty.

        Raises:
            DataError: one is.
        """
        for name in columns:
            for number, row in self.numbered():
                value = row.get(name)
                if isinstance(value, str) and not value.strip():
                    raise DataError(
                        f"{self.source}, row {number}: column '{name}' is an empty text; expected at least one word"
                    )

    def without(self, columns: Collection[str]) -> Self:
        """The rows without those columns.

        >>> Rows([{"text": "a", "label": 1}], source="a row").without(["label"]).columns
        ('text',)
        """
        kept = [{name: value for name, value in row.items() if name not in columns} for row in self.records]
        return replace(self, records=kept)


def parse_columns(text: str) -> dict[str, str]:
    """The mapping from task column to file column that ``--columns`` spells.

    Raises:
        DataError: a part is not ``name=column``, or a name comes twice.

    >>> parse_columns("text=sentence1, text_pair=sentence2")
    {'text': 'sentence1', 'text_pair': 'sentence2'}
    """
    columns: dict[str, str] = {}
    for part in text.split(","):
        name, _, column = (piece.strip() for piece in part.partition("="))
        if not name or not column:
            raise DataError(f"--columns part '{part.strip()}' is not name=column: write text=sentence,label=class")
        if name in columns:
            raise DataError(f"--columns names '{name}' twice, as '{columns[name]}' and '{column}': give it once")
        columns[name] = column
    return columns


def load_rows(source: str | Path, *, columns: Mapping[str, str], limit: int | None) -> Rows:
    """The rows of a JSONL, CSV, TSV or Parquet file, or of a hub dataset, columns renamed to what the task calls them.

    Args:
        source: a file, or ``name:split`` or ``name:config:split`` of the hub where no such file exists.
        columns: from task column to file column; columns it does not mention keep their names.
        limit: how many rows to read from the start; ``None`` for all.

    Raises:
        DataError: a missing, unreadable or malformed file, an unknown suffix, no rows, a missing column, a limit
            below 1.
    """
    return next(stream_rows(source, columns=columns, limit=limit, size=None))


def stream_rows(
    source: str | Path, *, columns: Mapping[str, str], limit: int | None, size: int | None
) -> Iterator[Rows]:
    """The rows of ``load_rows``, so many at a time, that of a file no more need to be held; at least one of them.

    Args:
        source: as in ``load_rows``.
        columns: as in ``load_rows``.
        limit: as in ``load_rows``.
        size: how many rows to hold; ``None`` for all.

    Raises:
        DataError: as ``load_rows``, when it comes to the row that is wrong.
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit {limit} takes no rows: expected 1 or more")
    records = islice(_open_source(source), limit)
    first = 1
    while part := list(islice(records, size)):
        yield _rename_columns(Rows(part, str(source), first), columns)
        first += len(part)
    if first == 1:
        raise DataError(f"data '{source}' has no rows: expected at least one")


def count_rows(source: str | Path, limit: int | None) -> int:
    """How many rows ``stream_rows`` gives; a file is read for it, line by line.

    Raises:
        DataError: as ``load_rows``, but for columns.
    """
    return sum(1 for _ in islice(_open_source(source), limit))


def _open_source(source: str | Path) -> Iterator[Row]:
    path = Path(source)
    hub = _HUB_NAME.fullmatch(str(source))
    if path.is_file():
        return _read_file(path)
    if path.is_dir():
        raise DataError(f"data '{source}' is a folder: expected a file in it{_name_files(path, path.name)}")
    if hub and Path(hub["name"]).suffix not in _READERS:
        return iter(_open_hub(hub["name"], hub["config"], hub["split"]))
    raise DataError(_describe_missing(path))


def _read_file(path: Path) -> Iterator[Row]:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        known = suggest(path.suffix, _READERS)
        raise DataError(f"data file '{path}' has the suffix '{path.suffix}', which is not read: {known}")
    try:
        yield from reader(path)
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise DataError(f"data file '{path}' is not UTF-8 text (byte 0x{byte:02x}): save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"data file '{path}' cannot be read: {error.strerror or error}") from error


def _read_json_lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.rstrip())
                json.dumps(row, ensure_ascii=False).encode()
            except json.JSONDecodeError as error:
                what = f"{error.msg} at character {error.colno}"
                raise DataError(f"{path}, line {number}: not JSON ({what}); expected one JSON object a line") from error
            except (ValueError, RecursionError) as error:  # numbers and nesting beyond measure, half a surrogate pair
                raise DataError(f"{path}, line {number}: {error}; expected one JSON object a line") from error
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}: found {type(row).__name__}; expected one JSON object a line")
            yield row


def _read_delimited(path: Path, delimiter: str) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, delimiter=delimiter, strict=True)
        try:
            header = next(reader, [])
            if len(set(header)) < len(header):
                raise DataError(f"{path}, line 1: the header names a column twice: {', '.join(header)}")
            for fields in reader:
                if fields and len(fields) != len(header):
                    place = f"{path}, line {reader.line_num}"
                    raise DataError(f"{place}: {len(fields)} fields; expected {len(header)}: {', '.join(header)}")
                if fields:
                    yield dict(zip(header, fields, strict=True))
        except csv.Error as error:
            mend = "double the quotes inside a quoted field, or write the data as JSONL"
            raise DataError(f"{path}, line {reader.line_num}: {error}; {mend}") from error


def _read_csv(path: Path) -> Iterator[Row]:
    return _read_delimited(path, ",")


def _read_tsv(path: Path) -> Iterator[Row]:
    return _read_delimited(path, "\t")


def _read_parquet(path: Path) -> Iterator[Row]:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"data file '{path}' is not Parquet: {_first_line(error)}") from error


_READERS: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _read_json_lines,
    ".json": _read_json_lines,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
}


def _open_hub(name: str, config: str | None, split: str) -> Iterable[Row]:
    # Imported here: it takes seconds, and only hub names need it.
    import datasets

    try:
        dataset: Iterable[Row] = datasets.load_dataset(name, config, split=split)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        why = _first_line(error)
        raise DataError(f"no file '{name}:{split}', nor a hub dataset: {why}; give a file instead") from error
    return dataset


def _rename_columns(rows: Rows, columns: Mapping[str, str]) -> Rows:
    if not columns:
        return rows
    known = rows.columns
    for name, column in columns.items():
        if column not in known:
            has = suggest(column, known)
            raise DataError(f"column '{column}' for '{name}' is not in {rows.source}: {has}; use --columns {name}=...")
    moved = set(columns.values())
    renamed = [
        {name: value for name, value in row.items() if name not in moved}
        | {name: row[column] for name, column in columns.items() if column in row}
        for row in rows
    ]
    return replace(rows, records=renamed)


def _describe_missing(path: Path) -> str:
    if not path.parent.is_dir():
        return f"data file '{path}' does not exist, nor does its folder: give a file, or name:split of a hub dataset"
    near = _name_files(path.parent, path.name) or "; give a file, or name:split of a hub dataset"
    return f"data file '{path}' does not exist{near}"


def _name_files(folder: Path, given: str) -> str:
    names = [file.name for file in folder.iterdir() if file.suffix.lower() in _READERS]
    nearest = get_close_matches(given, names, n=_MOST_FILES_NAMED, cutoff=0.0)
    return f": {suggest(given, nearest)}" if nearest else ""


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
