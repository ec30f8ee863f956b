"""The comparison of what a decoder says, the whole way on a tiny one."""

import json
from pathlib import Path

import pytest

from benchmarks.generation import generation_command
from tests.tiny import save_tiny, tiny_rows, tiny_tokenizer
from tests.tiny_decoders import tiny_decoder
from tests.tolerances import TIE


@pytest.mark.long
def test_torch_and_graphs_say_the_same(tmp_path: Path) -> None:
    checkpoint = save_tiny(tiny_decoder(layers=1), tiny_tokenizer(), tmp_path / "float")
    data = tmp_path / "texts.jsonl"
    long = [row for row in tiny_rows(80, 0) if len(str(row["text"]).split()) > 14]
    data.write_text("".join(json.dumps(row) + "\n" for row in long), encoding="utf-8")
    out = tmp_path / "generation.json"
    generation_command(checkpoint, data, data, out, steps=2, prompts=5)
    found = json.loads(out.read_text(encoding="utf-8"))
    assert list(found["scores"]) == ["fp32", "ptq", "qat", "onnx"]
    assert found["said_by_torch_and_graphs_in_float"] == {"tokens": 1.0, "prompts": 1.0}
    assert found["said_by_torch_and_graphs"]["prompts"] >= 0.8
    assert found["prompts"] == 5
    followed = found["said_but_for_ties"]
    assert (followed["tokens"], followed["prompts"]) == (1.0, 1.0)
    assert followed["largest_step"] <= 1
    assert followed["tie_distance"] <= TIE.value
