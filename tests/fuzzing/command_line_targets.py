"""The command line: words in any order end with status 0, or with 2 and one line that says why."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import pytest

from benchmarks.command_line import app
from tests.fuzzing.target import SOME, FuzzTarget
from tests.mutations import BATCH
from tests.test_command_line.calling import call

BETWEEN = b"\x00"
"""What stands between two words of an input: no word can hold it."""

NAMES = tuple(sorted(str(command.name) for command in app.registered_commands))
WORDS = (
    "--out", "--task", "--data", "--eval", "--columns", "--max-length", "--batch-size", "--limit", "--set", "--recipe",
    "--target", "--json", "--shapes", "--help", "--hardware", "--builder", "--precision", "--method", "--unknown", "--",
    "-", "", " ", ".", "..", "/", "/dev/null", "no/such/place", "a" * 300, "0", "-1", "1e999", "9" * 30, "1x128", "0x0",
    "text-classification", "text=a", "=", "a=b=c", "weights=7", "finetune.x=[[[", "\x1b[2J", "\udcff", "😀", "\u202e",
    "rtx", "linear", "percentile", "fp16", "[red]", "{}", "*", "~", "$HOME", "a\nb", "C:\\x", "http://127.0.0.1:1/x",
)  # fmt: skip


def order_words(corpus: Sequence[bytes], seed: int) -> Iterator[bytes]:
    """Lines of a command and up to eight words, whatever the corpus holds."""
    chance = Random(seed)
    for _ in range(BATCH):
        words = [chance.choice((*NAMES, *NAMES, "", "lintt")), *chance.choices(WORDS, k=chance.randint(0, 8))]
        yield BETWEEN.join(word.encode(errors="surrogateescape") for word in words)


def _take_line(data: bytes, folder: Path) -> None:
    words = [word.decode(errors="surrogateescape") for word in data.split(BETWEEN)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = call(*words)
    assert done.code in (0, 2)
    assert (done.code, done.err.count("\n")) == (2, 1) or done.code == 0
    assert "\x1b" not in done.err


TARGETS = (
    FuzzTarget(
        name="command-lines",
        corpus=lambda: list(order_words((), 0)),
        take=_take_line,
        mutations=(order_words,),
        inputs=SOME,
        quick=2,
    ),
)
"""Every target of this package."""
