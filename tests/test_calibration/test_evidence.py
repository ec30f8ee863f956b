"""What is kept of every tensor: its figures against NumPy on all values at once, its bins, its file."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from transformers import PreTrainedModel

from calibration.calibrate import Calibration, calibrate
from calibration.channels import ChannelPeaks
from calibration.evidence import TensorEvidence, examine, find_outliers, format_evidence, read_evidence
from calibration.histogram import magnitude_bits
from calibration.log_counts import LogCounts
from calibration.settings import CalibrationSettings
from qat.errors import CheckpointError
from qat.huggingface import wrap
from qat.quantizer import named_quantizers
from tests.calibrated import tiny_batches
from tests.oracles import int8_squared_error, round_to_steps, scale_of
from tests.test_calibration.float_hooks import oracle_magnitudes
from tests.tiny import TINY_MODELS, tiny_albert, tiny_bert
from tests.tolerances import ESTIMATED_CLIPPING, ESTIMATED_SQNR, HISTOGRAM_MSE

family = pytest.mark.parametrize("make", TINY_MODELS.values(), ids=TINY_MODELS)


def calibrated(model: PreTrainedModel, method: str, **settings: object) -> Calibration:
    wrap(model)
    return calibrate(
        model, tiny_batches(24), settings=CalibrationSettings.model_validate({"method": method, **settings})
    )


def sqnr(values: NDArray[np.float32], scale: float) -> float:
    wide = values.astype(np.float64).ravel()
    return float(10 * np.log10((wide**2).sum() / int8_squared_error(wide, np.ones(wide.size), 127 * scale)))


@family
def test_figures_are_those_of_all_values_at_once(make: Callable[[], PreTrainedModel]) -> None:
    model = make()
    evidence = calibrated(model, "percentile", percentile=97.0, equalize=False).evidence
    expected = oracle_magnitudes(make, tiny_batches(24))
    ranges = {name: each.amax.numpy() for name, each in named_quantizers(model)}
    assert evidence.keys() == expected.keys()
    saturated = 0.0
    for name, passes in expected.items():
        for depth, values in enumerate(passes):
            found, amax = evidence[name][depth], ranges[name][depth]
            scale = scale_of(amax)
            (figures,) = found.figures
            half = np.minimum(values.astype(np.float16).astype(np.float32), values.max())
            peaks = half.max(axis=0)
            assert found.largest == values.max()
            assert found.magnitudes.total == values.size
            assert found.zeros == (half == 0).mean()
            assert figures.amax == amax
            assert figures.saturated == (half > amax).mean()
            assert figures.dead == (peaks <= scale / 2).sum()
            assert figures.levels == len(np.unique(round_to_steps(half, scale)))
            assert figures.sqnr_db is not None
            assert abs(figures.sqnr_db - sqnr(values, float(scale))) < 10 * np.log10(HISTOGRAM_MSE.value)
            assert found.channels.total == len(peaks)
            saturated += figures.saturated
    assert saturated > 0


def test_every_candidates_figures_are_kept() -> None:
    model = tiny_albert()
    found = calibrated(model, "all")
    name = "albert.encoder.albert_layer_groups.0.albert_layers.0.ffn_output.input_quantizer"
    for depth, evidence in enumerate(found.evidence[name]):
        ranges = {float(np.float32(values[name][depth])) for values in found.candidates.values()}
        assert {figures.amax for figures in evidence.figures} == ranges
        assert len({figures.saturated for figures in evidence.figures}) > 1


def test_merged_depths_are_judged_by_the_range_they_share() -> None:
    found = calibrated(tiny_albert(), "max", depths="merged")
    shared = {row.name: row.amax for row in found.found}
    assert {
        (name, figures.amax) for name, depths in found.evidence.items() for each in depths for figures in each.figures
    } == set(shared.items())


def test_dead_channels_and_outlier_dimensions_are_those_made() -> None:
    model = tiny_bert()
    norm = model.get_submodule("bert.encoder.layer.0.attention.output.LayerNorm")
    with torch.no_grad():
        norm.weight[[3, 9, 20]] = 0.0  # type: ignore[operator]
        norm.bias[[3, 9, 20]] = torch.tensor([0.0, 0.0, 1e-4])  # type: ignore[operator]
        norm.bias[7] = 90.0  # type: ignore[operator]
        norm.bias[30] = -60.0  # type: ignore[operator]
    found = calibrated(model, "max", equalize=False).evidence["bert.encoder.layer.0.ffn_quantizer"][0]
    assert found.figures[0].dead == 3
    assert found.channels.zeros == 2
    assert found.outliers == 2
    assert list(found.named) == [7, 30]
    assert found.named[7] == np.float16(found.largest)


def test_padding_is_no_evidence() -> None:
    batches = tiny_batches(24)
    wider = [
        {name: torch.nn.functional.pad(x, (0, 9)) for name, x in each.items() if name != "labels"} for each in batches
    ]
    narrow, wide = tiny_bert(), tiny_bert()
    wrap(narrow)
    wrap(wide)
    first, second = (
        calibrate(model, each, settings=CalibrationSettings(method="max"))
        for model, each in ((narrow, batches), (wide, wider))
    )
    assert {name: found[0].magnitudes.total for name, found in first.evidence.items()} == {
        name: found[0].magnitudes.total for name, found in second.evidence.items()
    }


@given(
    parts=st.lists(
        arrays(np.float32, st.tuples(st.integers(1, 4), st.just(5)), elements=st.floats(-70000, 70000, width=32)),
        min_size=1,
        max_size=4,
    ),
    cut=st.integers(0, 4),
)
def test_channel_peaks_are_numpys_however_they_are_merged(parts: list[NDArray[np.float32]], cut: int) -> None:
    whole, first, second = ChannelPeaks(), ChannelPeaks(), ChannelPeaks()
    for place, part in enumerate(parts):
        for each in (whole, first if place < cut else second):
            each.update(magnitude_bits(torch.from_numpy(part)))
    first.merge(second)
    values = np.abs(np.concatenate(parts))
    with np.errstate(over="ignore"):
        expected = np.minimum(values.astype(np.float16).astype(np.float64), values.max()).max(axis=0)
    assert whole.read(values.max()).tolist() == first.read(values.max()).tolist() == expected.tolist()


def test_nothing_seen_has_no_channels() -> None:
    assert ChannelPeaks().read(0.0).tolist() == []


@given(single=arrays(np.float32, st.integers(1, 60), elements=st.floats(0, 60000, width=32)))
def test_every_value_counts_in_its_bin(single: NDArray[np.float32]) -> None:
    values = np.sort(single.astype(np.float64))
    found = LogCounts.condense(values, np.ones(len(values)))
    edges = found.edges()
    assert found.total == len(values)
    assert found.zeros == (values == 0).sum()
    assert len(found.counts) <= 48
    assert list(found.counts) == [((values >= low) & (values < high)).sum() for low, high in pairwise(edges)]
    assert LogCounts.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.parametrize("spread", ["normal", "heavy"])
def test_a_range_that_calibration_did_not_find_is_estimated(spread: str) -> None:
    generator = np.random.default_rng(0)
    freedom = {"normal": 1e9, "heavy": 4.0}[spread]
    values = np.sort(np.abs(generator.standard_t(freedom, 20_000)))
    points = (values, np.ones(len(values)))
    peaks = values[:20_000:50] * 0.1
    found = examine(points, float(values[-1]), peaks, [])
    for share in (0.9, 0.5, 0.2):
        amax = float(values[-1]) * share
        figures = found.judge(amax, amax / 127)
        exact = examine(points, float(values[-1]), peaks, [(amax, amax / 127)]).figures[0]
        assert exact.sqnr_db is not None
        assert figures.sqnr_db == pytest.approx(exact.sqnr_db, abs=ESTIMATED_SQNR.value)
        assert figures.saturated == pytest.approx(exact.saturated, abs=ESTIMATED_CLIPPING.value)
        assert abs(figures.dead - exact.dead) <= 2
        assert figures.levels is None


def test_a_tensor_of_zeros_is_dead_and_says_so() -> None:
    found = examine((np.zeros(1), np.full(1, 12.0)), 0.0, np.zeros(4), [(0.0, 2.0**-14)])
    (figures,) = found.figures
    assert (found.zeros, found.outliers, figures.dead, figures.saturated) == (1.0, 0, 4, 0.0)
    assert (figures.sqnr_db, figures.levels) == (None, 1)
    assert found.judge(1.0, 1 / 127).dead == 4


def test_no_channel_is_an_outlier_among_dead_ones() -> None:
    assert find_outliers(np.array([0.0, 0.0, 0.0, 5.0])) == []
    assert find_outliers(np.array([1.0, 1.0, 6.0, 1.0, 5.9])) == [2]


def test_the_file_holds_what_was_found(tmp_path: Path) -> None:
    found = calibrated(tiny_bert(), "all").evidence
    (tmp_path / "evidence.json").write_text(format_evidence(found), encoding="utf-8")
    assert read_evidence(tmp_path) == found
    assert isinstance(found["bert.encoder.layer.0.ffn_quantizer"][0], TensorEvidence)


def test_a_folder_without_the_file_knows_nothing(tmp_path: Path) -> None:
    assert read_evidence(tmp_path) == {}


@pytest.mark.parametrize("text", ["{", '{"ranges": []}', '{"ranges": {"a": [{"largest": 1}]}}'])
def test_a_damaged_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "evidence.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError) as caught:
        read_evidence(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/evidence.json is damaged (")
    assert str(caught.value).endswith("): calibrate the float checkpoint again")
