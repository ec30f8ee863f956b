"""Calling the command line in this process, and the small workspace it is called on."""

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.command_line import run
from tests.tiny import save_tiny, tiny_bert, tiny_rows, tiny_tokenizer


@dataclass(frozen=True)
class Done:
    """How a call ended and what it printed."""

    code: object
    out: str
    err: str

    @property
    def value(self) -> dict[str, Any]:
        """The JSON object that is the last line of standard output."""
        value: dict[str, Any] = json.loads(self.out.removesuffix("\n").rsplit("\n", 1)[-1])
        return value


@dataclass(frozen=True)
class Workspace:
    """A float checkpoint and its rows."""

    folder: Path
    checkpoint: Path
    train: Path
    validation: Path


def call(*arguments: object) -> Done:
    """``qdq`` with these arguments, as its entry point runs it."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["qdq", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            run()
    return Done(left.value.code or 0, out.getvalue(), err.getvalue())


def make_workspace(folder: Path, *, layers: int = 2) -> Workspace:
    """The checkpoint of a tiny BERT with 64 rows to train and 32 to score on."""
    checkpoint = save_tiny(tiny_bert(num_hidden_layers=layers), tiny_tokenizer(), folder / "float")
    train, validation = folder / "train.jsonl", folder / "validation.jsonl"
    write_rows(train, tiny_rows(64, seed=1))
    write_rows(validation, tiny_rows(32, seed=2))
    return Workspace(folder, checkpoint, train, validation)


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    """A JSONL file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def list_tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content, and every folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.rglob("*"))
    }
