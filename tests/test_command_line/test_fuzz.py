"""Command lines of any words end with status 0, or with 2 and one line that says why."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.command_line import app
from tests.mutations import batches
from tests.test_command_line.calling import call

NAMES = sorted(str(command.name) for command in app.registered_commands)
WORDS = (
    *(
        "--out",
        "--task",
        "--data",
        "--eval",
        "--columns",
        "--max-length",
        "--batch-size",
        "--limit",
        "--set",
        "--recipe",
    ),
    *(
        "--target",
        "--json",
        "--shapes",
        "--help",
        "--hardware",
        "--builder",
        "--precision",
        "--method",
        "--unknown",
        "--",
    ),
    *(
        "-",
        "",
        " ",
        ".",
        "..",
        "/",
        "/dev/null",
        "no/such/place",
        "a" * 300,
        "0",
        "-1",
        "1e999",
        "9" * 30,
        "1x128",
        "0x0",
    ),
    *(
        "text-classification",
        "text=a",
        "=",
        "a=b=c",
        "weights=7",
        "finetune.x=[[[",
        "\x1b[2J",
        "\udcff",
        "😀",
        "\u202e",
    ),
    *("rtx", "linear", "percentile", "fp16", "[red]", "{}", "*", "~", "$HOME", "a\nb", "C:\\x", "http://127.0.0.1:1/x"),
)


@batches(60, 5000)
@given(seed=st.integers(0, 2**64))
def test_words_in_any_order(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    chance = Random(seed)
    words = chance.choices(WORDS, k=chance.randint(0, 8))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.getbasetemp())
        done = call(chance.choice((*NAMES, *NAMES, "", "lintt")), *words)
    assert done.code in (0, 2)
    assert (done.code, done.err.count("\n")) == (2, 1) or done.code == 0
    assert "\x1b" not in done.err
