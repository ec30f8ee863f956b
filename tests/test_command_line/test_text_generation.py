"""The command line takes a decoder the whole way, and says what it does not take."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks.journey import Journey
from export.runners.load_decoder import load_decoder
from tests.test_command_line.calling import call, write_rows
from tests.tiny import save_tiny, tiny_rows, tiny_tokenizer
from tests.tiny_decoders import tiny_decoder
from tests.tolerances import OPTIMIZED_PERPLEXITY


def write_texts(path: Path, count: int, seed: int) -> Path:
    return write_rows(path, [{"text": row["text"]} for row in tiny_rows(count, seed)])


@pytest.mark.long
def test_the_whole_journey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the builder of the tests: pip install 'qdq[rtx]'")
    monkeypatch.setattr("benchmarks.commands.Journey", partial(Journey, latency_seconds=0.2))
    checkpoint = save_tiny(tiny_decoder(layers=1), tiny_tokenizer(), tmp_path / "float")
    train, validation = (write_texts(tmp_path / f"{n}.jsonl", n, n) for n in (48, 24))
    out = tmp_path / "run"
    done = call(
        *("run", checkpoint, "--task", "text-generation", "--data", train, "--eval", validation, "--out", out),
        *("--set", "finetune.max_steps=2", "--json"),
    )
    assert (done.code, done.err) == (0, done.err)
    accuracy = json.loads((out / "report.json").read_text(encoding="utf-8"))["accuracy"]
    assert accuracy["metric"] == "token_probability"
    for stage in ("fp32", "ptq", "qat", "onnx"):
        assert tuple(accuracy["metrics"][stage]) == ("token_probability", "perplexity", "accuracy")
    assert accuracy["agreement"] >= 0.9
    scored = call("evaluate", out / "onnx", "--data", validation, "--json").value
    assert scored["task"] == "text-generation"
    assert scored["value"] == pytest.approx(accuracy["onnx"], rel=OPTIMIZED_PERPLEXITY.value)
    step = out / "onnx" / "model_with_past.onnx"
    built = call("build", step, "--out", tmp_path / "step.engine", "--shapes", "1x1,2x16", "--json").value
    assert built["float_gemms"] == 0
    with load_decoder(out / "onnx") as runner:
        assert runner.generate(np.array([[2, 9]]), np.array([[1, 1]]), max_new_tokens=4).tokens.shape == (1, 4)
    told = call("predict", out / "onnx", "--text", "ba du", "--new-tokens", "4")
    assert (told.code, told.err) == (0, "")
    assert set(told.value) == {"said", "score", "ended", "text"}
    assert told.value["text"].startswith("ba du")
    timed = call("benchmark", out / "onnx", "--shapes", "2x16", "--seconds", "0.1", "--json")
    assert [row["artefact"] for row in timed.value["latency"]] == [str(out / "onnx")]
    refused = call("evaluate", step, "--data", validation)
    assert (refused.code, refused.err.strip()) == (
        2,
        f"qdq: {step} says one token after what model.onnx kept of a prompt, and takes no rows: give the folder, or "
        f"{step.parent / 'model.onnx'}",
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"is_decoder": False},
            "qdq: text-generation needs a decoder, but this checkpoint sees the tokens it is to say (is_decoder is "
            "false in its config.json): fine-tune it as a decoder, or use another task",
        ),
        (
            {"add_cross_attention": True},
            "qdq: text-generation reads texts alone, but this decoder attends to another model's states as well "
            "(add_cross_attention is true in its config.json): give qdq.calibrate batches with encoder_hidden_states "
            "from Python",
        ),
    ],
)
def test_what_is_no_decoder_of_texts_is_refused(tmp_path: Path, settings: dict[str, bool], said: str) -> None:
    model = tiny_decoder(layers=1, cross="add_cross_attention" in settings)
    model.config.update(settings)
    checkpoint = save_tiny(model, tiny_tokenizer(), tmp_path / "float")
    data = write_texts(tmp_path / "rows.jsonl", 8, 0)
    out = tmp_path / "out"
    done = call("calibrate", checkpoint, "--task", "text-generation", "--data", data, "--out", out)
    assert (done.code, done.err.strip()) == (2, said)
    assert not out.exists()
