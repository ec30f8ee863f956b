"""The tutorials that quantize without training: run as their users run them, on tiny checkpoints."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import qdq
from tests.test_command_line.calling import write_rows
from tests.tiny import save_tiny, tiny_albert, tiny_bert, tiny_rows, tiny_tokenizer

pytest.importorskip("tensorrt_rtx", reason="the builder of the tests: pip install 'qdq[rtx]'")


def main_of(name: str) -> Callable[..., Any]:
    main: Callable[..., Any] = importlib.import_module(f"tests.tutorials.quantizing.{name}").main
    return main


def test_ten_lines_make_an_engine_and_its_audit_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    float_folder = save_tiny(tiny_bert(num_hidden_layers=1), tiny_tokenizer(), tmp_path / "float")
    data = write_rows(tmp_path / "train.jsonl", tiny_rows(48))
    engine = main_of("ptq_in_ten_lines")(str(float_folder), str(data), str(tmp_path / "out"))
    found: Any = qdq.audit(engine)
    assert (found.status, found.float_gemms) == ("complete", 0)
    assert capsys.readouterr().out == f"{found.int8_gemms} products of {engine} run in INT8, 0 should and do not\n"

    assert main_of("reading_an_audit")(engine) == found.as_planned
    told = capsys.readouterr().out.splitlines()
    assert told[:3] == [
        f"{found.int8_gemms} products run in INT8",
        "0 were planned in INT8 and run in float",
        f"{found.unplanned_gemms} were not planned",
    ]
    assert [line.partition(": ")[2] for line in told[6:]] == [
        f"{row.kind} {row.name} in {row.dtype}: {row.reason}" for row in found.rows if row.reason
    ]


@pytest.mark.long
def test_a_flax_albert_becomes_an_engine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    float_folder = save_tiny(tiny_albert(num_hidden_layers=2), tiny_tokenizer(), tmp_path / "float")
    qdq.convert(float_folder, tmp_path / "flax", to="flax")
    assert (tmp_path / "flax" / "flax_model.msgpack").is_file()
    data = write_rows(tmp_path / "train.jsonl", tiny_rows(48))
    engine, score = main_of("flax_albert_to_engine")(str(tmp_path / "flax"), str(data), str(tmp_path / "out"))
    assert Path(engine).is_file()
    scores = [
        qdq.evaluate(folder, data, task="text-classification").value
        for folder in (tmp_path / "out" / "onnx", tmp_path / "out" / "float", float_folder)
    ]
    assert scores == [score, scores[2], scores[2]]
    told = capsys.readouterr().out
    assert "values of a flax checkpoint" in told
    assert [f"depth {depth}" in told for depth in (0, 1)] == [True, True]
