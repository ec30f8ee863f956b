"""The price of a QAT step: what is trained, on which batches, and how samples become ratios."""

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.memory import peak_megabytes
from benchmarks.peers.job import Feed
from benchmarks.qat_step_contestants import (
    FLOAT,
    PLACEMENTS,
    Setting,
    make_step,
    measure_memory,
    read_feeds,
)
from benchmarks.qat_step_modelopt import serve_steps
from benchmarks.qat_step_peer import PeerSteps
from benchmarks.qat_step_rounds import compare_steps, time_steps
from benchmarks.timing import CLOCKS, Samples
from qat.errors import BuildError, DataError
from qat.quantizer import named_quantizers, quantizers_without_range
from tests.test_command_line.calling import make_workspace


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    workspace = make_workspace(tmp_path_factory.mktemp("qat-step"))
    return Setting(checkpoint=workspace.checkpoint, data=workspace.train, texts=24, batch_size=8, threads=1)


@pytest.fixture(scope="module")
def feeds(setting: Setting) -> list[Feed]:
    return read_feeds(setting)


def test_batches_are_full_and_of_like_length(setting: Setting, feeds: list[Feed]) -> None:
    lengths = sorted((feed["attention_mask"].sum(axis=1) for feed in feeds), key=lambda row: -int(row[0]))
    assert [feed["labels"].shape for feed in feeds] == [(8,)] * 3
    flat = np.concatenate(lengths)
    assert (np.diff(flat) <= 0).all()


@pytest.mark.parametrize("name", [FLOAT, *PLACEMENTS])
def test_a_step_trains_the_model(name: str, setting: Setting, feeds: list[Feed]) -> None:
    step = make_step(name, setting, feeds)
    before = [parameter.detach().clone() for parameter in step.model.parameters()]
    assert np.isfinite(step())
    assert step.model.training
    assert {module.p for module in step.model.modules() if isinstance(module, torch.nn.Dropout)} == {0.0}
    assert quantizers_without_range(step.model) == []
    assert any(True for _ in named_quantizers(step.model)) == (name != FLOAT)
    changed = [not torch.equal(old, new) for old, new in zip(before, step.model.parameters(), strict=True)]
    assert sum(changed) > len(changed) / 2


def test_every_contestant_takes_the_same_number_of_steps(setting: Setting) -> None:
    samples = time_steps(setting, rounds=2, clock=CLOCKS["wall"], environments=None)
    assert list(samples) == [FLOAT, *PLACEMENTS]
    assert {len(taken.milliseconds) for taken in samples.values()} == {2}


def test_too_few_rows_are_refused(setting: Setting) -> None:
    wide = Setting(checkpoint=setting.checkpoint, data=setting.data, texts=24, batch_size=25, threads=1)
    with pytest.raises(DataError) as caught:
        time_steps(wide, rounds=1, clock=CLOCKS["wall"], environments=None)
    assert str(caught.value) == f"{setting.data} fills no batch of 25 rows: lower --batch-size"


def test_a_ratio_is_the_median_of_paired_ratios_to_the_float_step_beside_it() -> None:
    samples = {
        "modelopt_float": Samples((1.0, 2.0, 4.0)),
        "modelopt": Samples((2.0, 6.0, 16.0)),
        "float": Samples((10.0, 20.0, 30.0)),
        "full": Samples((15.0, 22.0, 39.0)),
    }
    found = {each.name: each for each in compare_steps(samples)}
    assert {name: each.ratio for name, each in found.items()} == {
        "modelopt_float": 1.0, "modelopt": 3.0, "float": 1.0, "full": 1.3,
    }  # fmt: skip
    assert found["modelopt"].spread == 0.5
    assert found["full"].milliseconds == 22.0


@pytest.mark.parametrize("holes", [False, True])
def test_memory_is_above_what_was_resident_before(setting: Setting, holes: bool) -> None:
    environment = dict(os.environ)
    peak = measure_memory("full", setting, holes=holes)
    assert (peak is None) == (peak_megabytes(lambda: None) is None)
    assert peak is None or peak > 0.0
    assert dict(os.environ) == environment


def test_a_peer_answers_every_request_with_its_clock() -> None:
    taken: list[str] = []
    answers = io.StringIO()
    steps = {name: lambda name=name: taken.append(name) for name in ("float", "quantized")}
    serve_steps(steps, ["quantized\n", "float\n"], answers)
    assert taken == ["quantized", "float"]
    clock = [int(line) for line in answers.getvalue().splitlines()]
    assert len(clock) == 3
    assert clock == sorted(clock)


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[PeerSteps]:
    """A peer that answers 7 to one request, then says why it stops."""
    script = "import sys; input(); print(7, flush=True); input(); sys.exit('no range for the weights')"
    log = tmp_path / "log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        yield PeerSteps(process, log)
        process.kill()


def test_the_other_side_waits_for_the_answer_and_tells_a_failure(echo: PeerSteps) -> None:
    echo.take("float")
    assert echo.processor_ns == 7
    with pytest.raises(BuildError) as caught:
        echo.take("quantized")
    expected = "the training step of modelopt failed: no range for the weights; leave it out with --no-peers"
    assert str(caught.value) == expected
