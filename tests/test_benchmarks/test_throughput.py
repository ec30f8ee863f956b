"""Throughput: passes over rows in both orders, side by side, and the table that comes of them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.latency.roster import Contestant
from benchmarks.throughput_command import app
from benchmarks.throughput_passes import share_padding, time_passes
from benchmarks.timing import CLOCKS
from export.runners.torch_runner import TorchRunner
from qat.scoring import Batching
from tests.calibrated import TASK, encode_tiny
from tests.tiny import tiny_bert


def test_every_contestant_passes_over_all_rows_in_both_orders() -> None:
    rows, batching = encode_tiny(12), Batching(pad_token_id=0, batch_size=4, streams=2)
    names = ["one", "two"]
    contestants = [Contestant(name=name, int8_kernels=0, runner=TorchRunner(tiny_bert())) for name in names]
    found = time_passes(contestants, rows, TASK, batching=batching, rounds=3, clock=CLOCKS["wall"])
    assert [(each.name, each.order) for each in found] == [
        (name, order) for name in names for order in ("bucketed", "random")
    ]
    assert all(len(each.samples_ms) == 3 and each.texts_per_s > 0 for each in found)
    assert [each.ratio for each in found[:2]] == [1.0, 1.0]
    assert [each.bucketing for each in found[1::2]] == [1.0, 1.0]


def test_rows_of_like_length_are_padded_least() -> None:
    rows = encode_tiny(64)
    bucketed = share_padding(rows, Batching(pad_token_id=0, batch_size=8, order="length"))
    loose = share_padding(rows, Batching(pad_token_id=0, batch_size=8, order="shuffled"))
    assert 0 <= bucketed < loose < 1


@pytest.mark.long
def test_the_command_measures_the_shipped_sample(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="one of the runtimes: pip install 'qdq[openvino]'")
    out = tmp_path / "throughput.json"
    done = CliRunner().invoke(app, ["--limit", "48", "--texts", "16", "--rounds", "1", "--out", str(out)])
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["rows"] == 48
    assert next(iter(found["contestants"])) == "torch FP32"
    assert len(found["passes"]) == 2 * len(found["contestants"])
    assert found["padding"]["bucketed"] < found["padding"]["random"]
