"""Hard twins: outlier channels where there were none, in every family, and a checkpoint of their own."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks.hard_twins import enlarge_channels, hard_twin_command
from benchmarks.sample import CHECKPOINT, TRAIN
from calibration.equalize import measure_peaks
from qat.artefacts import read_manifest
from qat.families import find_family
from tests.calibrated import tiny_batches
from tests.tiny import TINY_MODELS, tiny_bert

FACTOR = 32.0


def batches() -> list[dict[str, Tensor]]:
    return [{name: x for name, x in each.items() if name != "labels"} for each in tiny_batches(16)]


@pytest.mark.parametrize("make", TINY_MODELS.values(), ids=TINY_MODELS)
def test_the_chosen_channels_of_every_stream_tensor_stand_out(make: Callable[[], PreTrainedModel]) -> None:
    model = make()
    tensors = find_family(model.config.model_type).stream_tensors(model)
    chosen = enlarge_channels(model, 2, FACTOR, seed=0)
    assert len(set(chosen)) == 2
    with torch.no_grad():
        peaks, _ = measure_peaks(model, tensors, batches())
    for tensor in tensors:
        for path in tensor.writers:
            peak = peaks[path]
            assert sorted(peak.topk(2).indices.tolist()) == chosen, path
            assert float(peak[chosen].min()) > 4 * float(peak.median()), path


def test_a_factor_of_one_changes_nothing() -> None:
    model = tiny_bert()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    enlarge_channels(model, 3, 1.0, seed=0)
    assert all(torch.equal(model.state_dict()[name], x) for name, x in before.items())


def test_the_command_writes_a_checkpoint_that_says_what_was_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(TRAIN.read_text(encoding="utf-8").splitlines(keepends=True)[:48]), encoding="utf-8")
    out = tmp_path / "twin"
    hard_twin_command(CHECKPOINT, rows, rows, out, steps=2)
    said = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert len(said["enlarged"]) == said["channels"] == 3
    assert 0.0 <= said["twin"] <= said["original"] <= 1.0
    manifest = read_manifest(out)
    assert (manifest["stage"], manifest["factor"], manifest["steps"]) == ("harden", 30.0, 2)
    assert (out / "model.safetensors").is_file()
