"""The command line takes every head the whole way, from its name alone."""

import json
from functools import partial
from pathlib import Path

import pytest

from benchmarks.journey import Journey
from qat.tasks import find_task
from tests.test_command_line.calling import call, write_rows
from tests.tiny import save_tiny, tiny_tokenizer
from tests.tiny_heads import HEADS, head_model, head_rows
from tests.tolerances import HEAD_METRIC, PERPLEXITY


@pytest.mark.long
@pytest.mark.parametrize("head", HEADS)
def test_the_whole_journey(head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the builder of the tests: pip install 'qdq[rtx]'")
    monkeypatch.setattr("benchmarks.commands.Journey", partial(Journey, latency_seconds=0.2))
    checkpoint = save_tiny(head_model(head, "bert", layers=1), tiny_tokenizer(), tmp_path / "float")
    train, validation = (
        write_rows(tmp_path / f"{name}.jsonl", [dict(row) for row in head_rows(head, count, seed)])
        for seed, (name, count) in enumerate({"train": 48, "validation": 24}.items())
    )
    out, task = tmp_path / "run", HEADS[head].task
    done = call(
        *("run", checkpoint, "--task", task, "--data", train, "--eval", validation, "--out", out),
        *("--set", "finetune.max_steps=2", "--sensitivity", 8, "--json"),
    )
    assert (done.code, done.err) == (0, done.err)
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["sensitivity"]["metric_name"] == HEADS[head].metrics[0]
    accuracy = report["accuracy"]
    assert accuracy["metric"] == HEADS[head].metrics[0]
    for stage in ("fp32", "ptq", "qat", "onnx"):
        assert tuple(accuracy["metrics"][stage]) == HEADS[head].metrics
    assert accuracy["agreement"] >= 0.9
    reference = ("--reference", checkpoint) if find_task(task).refers else ()
    scored = call("evaluate", out / "onnx", "--data", validation, *reference, "--json").value
    assert scored["task"] == task  # its graph is optimized, the journey's is run as it was exported
    assert scored["metrics"] == pytest.approx(accuracy["metrics"]["onnx"], abs=HEAD_METRIC.value, rel=PERPLEXITY.value)
    timed = call(
        "benchmark", out / "onnx", checkpoint, "--task", task, "--shapes", "2x16", "--seconds", "0.1", "--json"
    )
    assert [row["artefact"] for row in timed.value["latency"]] == [str(out / "onnx"), str(checkpoint)]
