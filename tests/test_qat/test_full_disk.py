"""A disk that takes no more is one line, whoever was writing, and what was there before stays."""

import errno
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from safetensors.torch import save_file

from qat.artefacts import atomic_file
from qat.errors import OutputError
from qat.full_disk import naming_full_disk
from tests.tiny import tiny_tokenizer

ROOM = 2048
"""Bytes a file may have."""


@contextmanager
def little_room(most: int) -> Iterator[None]:
    """No file may grow beyond ``most`` bytes: the system refuses as a full disk does, with another number."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def save_graph(path: Path) -> None:
    weight = ir.Value(name="weight", const_value=ir.tensor(np.zeros(9000, np.float32), name="weight"))
    graph = ir.Graph([], [], nodes=[], initializers=[weight], opset_imports={"": 20}, name="graph")
    ir.save(ir.Model(graph, ir_version=10), path)


WRITERS: dict[str, Callable[[Path], object]] = {
    "python": lambda path: path.write_bytes(b"x" * 9000),
    "safetensors": lambda path: save_file({"weight": torch.zeros(9000)}, path),
    "tokenizers": lambda path: tiny_tokenizer().save_pretrained(path.with_name("tokenizer")),
    "torch": lambda path: torch.save(torch.zeros(9000), path),
    "onnx": save_graph,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_library_that_writes_is_understood(writer: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("old")
    with pytest.raises(OutputError) as caught, little_room(ROOM), atomic_file(out) as staging:
        WRITERS[writer](staging)
    reason = "the file system takes no more" if writer == "torch" else "File too large"
    assert str(caught.value) == f"cannot write {out}: {reason}; make room there, or choose another --out"
    assert ([path.name for path in tmp_path.iterdir()], out.read_text()) == (["out"], "old")


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "No space left on device"),
        (errno.EDQUOT, "Disk quota exceeded"),
        (errno.EROFS, "Read-only file system"),
    ],
)
def test_the_reason_is_the_systems_own(number: int, said: str) -> None:
    with pytest.raises(OutputError) as caught, naming_full_disk(Path("out")):
        raise OSError(number, "something")
    assert str(caught.value) == f"cannot write out: {said}; make room there, or choose another --out"


@pytest.mark.parametrize(
    "error", [FileNotFoundError(errno.ENOENT, "none"), ValueError("no label"), RuntimeError("a shape"), KeyError("a")]
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, naming_full_disk(Path("out")):
        raise error
    assert caught.value is error
