"""What commands print: data as it is, mistakes on one line, JSON last."""

import json
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import pytest

from qat.console import (
    format_cell,
    format_json,
    print_json,
    print_table,
    say,
    show_controls,
    show_progress,
    show_stages,
)

Captured = pytest.CaptureFixture[str]

HOSTILE = ["[red]x[/red]", "[/]", "[bold", ":warning:", "back\\", "\\[red]", "[link=file:///x]y[/link]"]
"""Texts that rich would read as markup, emoji or escapes."""


@pytest.mark.parametrize("text", HOSTILE)
def test_tables_show_data_as_it_is(text: str, capsys: Captured) -> None:
    print_table(f"title {text}", ("a", f"head {text}"), [("1", text), (text, 2)])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["title", *text.split()], ["a", "head", *text.split()], ["1", text], [text, "2"]]


def test_a_narrow_terminal_breaks_long_names_and_cuts_none(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    print_table("title", ("name", "n"), [("encoder.layer.3.attention.output", 7)])
    _, _, *lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 20
    assert "".join(line.split()[0] for line in lines) == "encoder.layer.3.attention.output"


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("width", ["20", "200"])
def test_messages_are_one_line_of_standard_error(
    text: str, width: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    message = f"{text}: expected something else, which takes a good many words to say; known: {text}"
    say(message)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", message + "\n")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (0.8125249, "0.8125"), (1e-9, "1e-09"), (12, "12"), (True, "True"), ("a", "a"), (0.0, "0")],
)
def test_cells(value: object, shown: str) -> None:
    assert format_cell(value) == shown


def test_the_json_line_is_the_last_and_parses(capsys: Captured) -> None:
    value = {"out": "runs/[red]\nnew\u2028line", "value": 0.1, "n": 3, "ranges": None, "parts": [1, {"a": True}]}
    with show_progress("work") as advance:
        advance(1, 2)
    print_table("a table", ("a",), [("b",)])
    print_json(value)
    printed = capsys.readouterr().out
    assert printed.endswith("\n")
    assert json.loads(printed.removesuffix("\n").rsplit("\n", 1)[1]) == value
    assert json.loads(printed.splitlines()[-1]) == value


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_json_has_not_are_refused(number: float, capsys: Captured) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        print_json({"value": number})
    assert capsys.readouterr().out == ""


def test_progress_is_not_on_standard_output(capsys: Captured) -> None:
    with show_progress("work") as advance:
        for done in range(3):
            advance(done + 1, 3)
    with show_stages() as enter:
        enter("[red]one", 1, 4)
        enter("two", 0, 1)
    assert capsys.readouterr().out == ""


def test_a_bar_tells_the_time_taken_until_it_can_tell_the_time_left(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    with show_progress("work") as advance:
        sys.stdout.write("a result\n")
    silent = capsys.readouterr()
    assert silent.out == "a result\n"
    assert ("so far" in silent.err, " left" in silent.err) == (True, False)
    with show_progress("work") as advance:
        for done in range(5):
            advance(done, 9, "first phase")
            time.sleep(0.01)
    told = capsys.readouterr().err
    assert "work: first phase" in told
    assert "4/9" in told
    assert " left" in told


def test_eight_columns_fit_a_terminal_of_80_and_lose_nothing(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    head = ("artefact", "runner", "precision", "shape", "p50", "p90", "p99", "samples/s")
    row = ("runs/supersense/minilm/finetuned", "onnxruntime", "int8+fp16", "32x384", 123.456, 134.5, 145.6, 64.81)
    print_table("latency", head, [row])
    _, *lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == list(head)
    assert lines[1].split()[1:] == ["onnxruntime", "int8+fp16", "32x384", "123.5", "134.5", "145.6", "64.81"]
    assert "".join(line.split()[0] for line in lines[1:]) == row[0]


@pytest.mark.parametrize("show", [partial(show_progress, "work"), show_stages])
def test_an_error_passes_through_the_progress_bar(show: Callable[[], AbstractContextManager[object]]) -> None:
    with pytest.raises(KeyError, match="mine"), show():
        raise KeyError("mine")


COMMANDS = ["\x1b[2Jgone", "\x1b]0;title\x07", "\x9b31mred", "a\rb", "\u202egnp.exe", "\ud800", "\u2066a\u2069"]
"""Texts that a terminal would obey, or show in another order, and one it cannot show."""


@pytest.mark.parametrize("text", COMMANDS)
def test_text_commands_no_terminal(text: str, capsys: Captured) -> None:
    print_table(f"title {text}", (f"head {text}",), [(text,)])
    say(text)
    printed = capsys.readouterr()
    shown = ascii(text)[1:-1]
    assert [line.rstrip() for line in printed.out.splitlines()] == [f"title {shown}", f"head {shown}", shown]
    assert printed.err == f"{shown}\n"


@pytest.mark.parametrize("text", COMMANDS)
def test_a_line_of_json_commands_no_terminal_and_keeps_its_value(text: str) -> None:
    line = format_json({"label": text, "of": "ä"})
    assert "ä" in line
    assert show_controls(line) == line
    assert json.loads(line) == {"label": text, "of": "ä"}


@pytest.mark.parametrize(
    "text", ["naïve", "\u0634\u0643\u0631\u0627", "\U0001f468\u200d\U0001f469", "\u0645\u06cc\u200c\u062e", "a\tb"]
)
def test_words_of_every_script_are_shown_as_they_are(text: str) -> None:
    assert show_controls(text) == text
