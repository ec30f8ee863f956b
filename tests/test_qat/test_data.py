"""Rows come from every file format, and what is wrong with a file is said in one line."""

import csv
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qat.data import Rows, load_rows, parse_columns, stream_rows
from qat.errors import DataError

RECORDS = [{"text": "a cat, or two", "label": "animal"}, {"text": 'an "oak"\nin two lines', "label": "plant"}]


def write_jsonl(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_csv(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    datasets.Dataset.from_list(list(rows)).to_csv(path)
    return path


def write_tsv(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    datasets.Dataset.from_list(list(rows)).to_csv(path, sep="\t")
    return path


def write_parquet(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    datasets.Dataset.from_list(list(rows)).to_parquet(path)
    return path


def refusal(source: str | Path, *, columns: dict[str, str] | None = None, limit: int | None = None) -> str:
    with pytest.raises(DataError) as caught:
        load_rows(source, columns=columns or {}, limit=limit)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("rows.jsonl", write_jsonl),
        ("rows.json", write_jsonl),
        ("rows.csv", write_csv),
        ("rows.tsv", write_tsv),
        ("rows.parquet", write_parquet),
        ("ROWS.JSONL", write_jsonl),
    ],
)
def test_every_format_gives_the_same_rows(
    tmp_path: Path, name: str, write: Callable[[Path, Sequence[dict[str, str]]], Path]
) -> None:
    path = write(tmp_path / name, RECORDS)
    rows = load_rows(path, columns={}, limit=None)
    assert [dict(row) for row in rows] == RECORDS
    assert (len(rows), rows.source, rows.columns) == (2, str(path), ("text", "label"))


def test_nothing_is_written_beside_the_data_or_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, data = tmp_path / "home", tmp_path / "data"
    home.mkdir()
    data.mkdir()
    monkeypatch.setenv("HOME", str(home))
    path = write_parquet(data / "rows.parquet", RECORDS)
    load_rows(path, columns={}, limit=None)
    assert list(home.iterdir()) == []
    assert list(data.iterdir()) == [path]


def test_limit_reads_no_further(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n\n{"text": "b"}\nnot json\n', encoding="utf-8")
    assert [row["text"] for row in load_rows(path, columns={}, limit=2)] == ["a", "b"]


def test_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"\xef\xbb\xbftext,label\r\na,1\r\n")
    assert dict(load_rows(path, columns={}, limit=None)[0]) == {"text": "a", "label": "1"}


def test_words_that_mean_missing_elsewhere_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\nNA,null\n12,\n", encoding="utf-8")
    rows = [dict(row) for row in load_rows(path, columns={}, limit=None)]
    assert rows == [{"text": "NA", "label": "null"}, {"text": "12", "label": ""}]


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), min_size=1, max_size=5))
def test_any_text_survives_jsonl(tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]) -> None:
    records = [{"text": text, "label": label} for text, label in pairs]
    path = write_jsonl(tmp_path_factory.mktemp("rows") / "rows.jsonl", records)
    assert [dict(row) for row in load_rows(path, columns={}, limit=None)] == records


def test_columns_are_renamed_and_the_others_kept(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [{"idx": 7, "sentence": "a", "text": "old", "class": 1}])
    rows = load_rows(path, columns={"text": "sentence", "label": "class"}, limit=None)
    assert dict(rows[0]) == {"idx": 7, "text": "a", "label": 1}


def test_columns_can_change_places(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [{"text": "a", "text_pair": "b"}])
    rows = load_rows(path, columns={"text": "text_pair", "text_pair": "text"}, limit=None)
    assert dict(rows[0]) == {"text": "b", "text_pair": "a"}


def test_missing_column(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [{"sentence": "a", "label": 1}])
    assert refusal(path, columns={"text": "sentnce"}) == (
        f"column 'sentnce' for 'text' is not in {path}: did you mean 'sentence'? known: label, sentence; "
        "use --columns text=..."
    )


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", RECORDS)
    (tmp_path / "notes.md").touch()
    assert refusal(tmp_path / "trian.jsonl") == (
        f"data file '{tmp_path}/trian.jsonl' does not exist: did you mean 'train.jsonl'? known: train.jsonl"
    )


def test_missing_file_in_a_folder_of_many_names_only_a_few(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"part{number}.csv").touch()
    assert refusal(tmp_path / "part41.csv").count(".csv") <= 10


def test_missing_file_in_a_folder_without_data(tmp_path: Path) -> None:
    assert refusal(tmp_path / "train.jsonl") == (
        f"data file '{tmp_path}/train.jsonl' does not exist; give a file, or name:split of a hub dataset"
    )


def test_missing_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no" / "train.jsonl") == (
        f"data file '{tmp_path}/no/train.jsonl' does not exist, nor does its folder: "
        "give a file, or name:split of a hub dataset"
    )


def test_folder_instead_of_a_file(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", RECORDS)
    assert refusal(tmp_path) == f"data '{tmp_path}' is a folder: expected a file in it: known: train.jsonl"


def test_unknown_suffix(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonlines"
    path.touch()
    assert refusal(path) == (
        f"data file '{path}' has the suffix '.jsonlines', which is not read: "
        "did you mean '.jsonl'? known: .csv, .json, .jsonl, .parquet, .tsv"
    )


@pytest.mark.parametrize(("name", "text"), [("a.jsonl", "\n\n"), ("a.csv", ""), ("a.tsv", "text\tlabel\n")])
def test_no_rows(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert refusal(path) == f"data '{path}' has no rows: expected at least one"


@pytest.mark.parametrize("limit", [0, -3])
def test_limit_below_one(tmp_path: Path, limit: int) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", RECORDS)
    assert refusal(path, limit=limit) == f"limit {limit} takes no rows: expected 1 or more"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"text": "b"', "not JSON (Expecting ',' delimiter at character 13)"),
        ('["b"]', "found list"),
        ("3", "found int"),
        (
            '{"text": "\\ud800"}',
            "'utf-8' codec can't encode character '\\ud800' in position 10: surrogates not allowed",
        ),
        (
            "9" * 5000,
            "Exceeds the limit (4300 digits) for integer string conversion: value has 5000 digits; use "
            "sys.set_int_max_str_digits() to increase the limit",
        ),
        ("[" * 100_000, "maximum recursion depth exceeded while decoding a JSON array from a unicode string"),
    ],
)
def test_malformed_json_names_the_line(tmp_path: Path, line: str, why: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"text": "a"}}\n\n{line}\n', encoding="utf-8")
    assert refusal(path) == f"{path}, line 3: {why}; expected one JSON object a line"


def test_csv_row_of_another_width_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\na,1\nb, or c,1\n", encoding="utf-8")
    assert refusal(path) == f"{path}, line 3: 3 fields; expected 2: text, label"


def test_csv_with_a_stray_quote_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text('text\tlabel\n"Hello" he said\t1\n', encoding="utf-8")
    assert refusal(path) == (
        f"{path}, line 2: '\t' expected after '\"'; double the quotes inside a quoted field, or write the data as JSONL"
    )


def test_csv_with_a_column_twice(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,text\na,b\n", encoding="utf-8")
    assert refusal(path) == f"{path}, line 1: the header names a column twice: text, text"


def test_csv_field_longer_than_the_reader_takes(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text\n" + "a" * (csv.field_size_limit() + 1) + "\n", encoding="utf-8")
    assert "line 2: field larger than field limit" in refusal(path)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_text_that_is_not_utf8(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes('text\n"café"\n'.encode("latin-1") if name.endswith("csv") else '{"text": "é"}'.encode("latin-1"))
    assert refusal(path) == f"data file '{path}' is not UTF-8 text (byte 0xe9): save it as UTF-8"


def test_file_that_is_not_parquet(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_text("text,label\n", encoding="utf-8")
    assert re.fullmatch(rf"data file '{path}' is not Parquet: .*Parquet magic bytes.*", refusal(path))


def test_hub_name_is_read_by_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A dataset folder of the working directory goes by the same name and through the same call as one on the hub.
    (tmp_path / "owner" / "data").mkdir(parents=True)
    write_jsonl(tmp_path / "owner" / "data" / "validation.jsonl", [{"sentence": "a"}, {"sentence": "b"}])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = load_rows("owner/data:validation", columns={"text": "sentence"}, limit=1)
    assert [dict(row) for row in rows] == [{"text": "a"}]
    assert refusal("owner/data:test") == (
        "no file 'owner/data:test', nor a hub dataset: Unknown split \"test\". Should be one of ['validation'].; "
        "give a file instead"
    )


def test_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    message = refusal("nobody/nothing-of-that-name:train")
    assert message.startswith("no file 'nobody/nothing-of-that-name:train', nor a hub dataset: ")
    assert message.endswith("; give a file instead")


@pytest.mark.parametrize("source", ["nyu-mll/glue", "train.jsonl:train", "a b:train"])
def test_what_does_not_look_like_a_hub_name_is_a_missing_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal(source).startswith(f"data file '{source}' does not exist")


def test_rows_take_a_dataset() -> None:
    rows = Rows(datasets.Dataset.from_list(RECORDS), source="a dataset")
    assert (len(rows), rows[1], rows.columns) == (2, RECORDS[1], ("text", "label"))


def test_columns_are_parsed() -> None:
    assert parse_columns("text=a,text_pair= b ,label=c=d") == {"text": "a", "text_pair": "b", "label": "c=d"}


@pytest.mark.parametrize("text", ["text", "text=", "=a", ""])
def test_columns_that_are_no_pairs(text: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_columns(text)
    assert str(caught.value) == f"--columns part '{text}' is not name=column: write text=sentence,label=class"


def test_columns_given_twice() -> None:
    with pytest.raises(DataError) as caught:
        parse_columns("text=a,text=b")
    assert str(caught.value) == "--columns names 'text' twice, as 'a' and 'b': give it once"


def test_rows_come_in_parts_with_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("sentence,class\n" + "".join(f"t{number},a\n" for number in range(5)), encoding="utf-8")
    parts = list(stream_rows(path, columns={"text": "sentence"}, limit=None, size=2))
    assert [[number for number, _ in part.numbered()] for part in parts] == [[1, 2], [3, 4], [5]]
    assert [row["text"] for part in parts for row in part] == [f"t{number}" for number in range(5)]
    assert [len(part) for part in stream_rows(path, columns={}, limit=3, size=2)] == [2, 1]


def test_no_more_of_a_file_is_read_than_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"}\nnot JSON\n', encoding="utf-8")
    parts = stream_rows(path, columns={}, limit=None, size=2)
    assert len(next(parts)) == 2
    with pytest.raises(DataError, match="line 3: not JSON"):
        next(parts)


def test_an_empty_file_has_no_parts(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        list(stream_rows(path, columns={}, limit=None, size=2))
    assert str(caught.value) == f"data '{path}' has no rows: expected at least one"
