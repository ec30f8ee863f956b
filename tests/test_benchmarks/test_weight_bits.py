"""Runtimes beside fake quantization with weights of 8 and of 7 bits."""

import json
from pathlib import Path

import pytest

from benchmarks.weight_bits import BITS, RECIPES, RUNTIMES, compare_runtimes, describe_distance, weight_bits_command
from tests.calibrated import encode_tiny, make_calibrated
from tests.test_command_line.calling import make_workspace
from tests.tiny import tiny_bert


def test_with_weights_of_7_bits_every_runtime_gives_torchs_answers() -> None:
    model = make_calibrated(tiny_bert(), target="onnxruntime", bits=7)
    compared = list(compare_runtimes(model, encode_tiny(24), pad=0))

    assert [name for name, _, _ in compared] == list(RUNTIMES)
    for _, found, beside in compared:
        assert describe_distance(found.outputs["logits"], beside.outputs["logits"])["agreement"] == 100
        assert found.metrics == beside.metrics


@pytest.mark.long
def test_every_recipe_is_answered_by_every_runtime_with_both_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace, out = make_workspace(tmp_path), tmp_path / "bits.json"
    weight_bits_command(workspace.checkpoint, workspace.train, workspace.validation, out, texts=16, limit=24)
    rows = json.loads(out.read_text())["rows"]

    assert [(row["recipe"], row["bits"], row["runtime"]) for row in rows] == [
        (recipe, bits, runtime) for recipe in RECIPES for bits in BITS for runtime in RUNTIMES
    ]
    assert len({row["distance"] for row in rows}) > 1
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines()[:-1])) <= 80
    assert json.loads(printed.splitlines()[-1])["out"] == str(out)
