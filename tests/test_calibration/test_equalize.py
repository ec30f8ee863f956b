"""Equalization: what outlier channels cost is won back, nothing is done where there are none, the function stays."""

import copy
import math

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from calibration.calibrate import calibrate
from calibration.equalize import divergence, equalize_stream, measure_peaks
from calibration.settings import CalibrationSettings
from qat.families import find_family
from qat.huggingface import wrap
from qat.quantizer import disable_quantizers
from qat.residual_stream import Gain
from tests.calibrated import tiny_batches
from tests.tiny import TINY_MODELS, tiny_bert, tiny_squeezebert

Batches = list[dict[str, Tensor]]


def rows(n: int = 32) -> Batches:
    return [{name: x for name, x in each.items() if name != "labels"} for each in tiny_batches(n)]


def with_outliers() -> PreTrainedModel:
    """A tiny BERT whose channel 5 leaves every first normalization 64 times as large, and is read by 1/64."""
    model: PreTrainedModel = tiny_bert()
    with torch.no_grad():
        for name, _ in find_family("bert").layers(model):
            norm = model.get_submodule(f"{name}.attention.output.LayerNorm")
            norm.get_parameter("weight")[5] *= 64
            norm.get_parameter("bias")[5] *= 64
            model.get_parameter(f"{name}.intermediate.dense.weight")[:, 5] /= 64
    wrap(model)
    return model


def answers(model: PreTrainedModel) -> list[Tensor]:
    with torch.no_grad():
        return [model(**batch).logits for batch in rows()]


def test_an_outlier_channel_is_made_small_and_the_float_answers_keep_their_bits() -> None:
    model = with_outliers()
    with disable_quantizers(model):
        before = answers(model)
    found = equalize_stream(model, rows())
    assert found is not None
    with disable_quantizers(model):
        assert all(map(torch.equal, answers(model), before))
    assert found.largest >= 4
    assert found.channels >= 2
    assert found.after < 0.5 * found.before
    gains = {name: module.gain for name, module in model.named_modules() if isinstance(module, Gain)}
    assert gains["bert.encoder.layer.0.output.LayerNorm"].argmax() == 5
    assert all(bool((torch.log2(gain) % 1 == 0).all()) for gain in gains.values())


def test_without_outliers_nothing_is_done() -> None:
    model = tiny_bert()
    wrap(model)
    before = {name: x.clone() for name, x in model.state_dict().items() if not name.endswith(".amax")}
    found = equalize_stream(model, rows())
    assert found is not None
    assert (found.limit, found.channels, found.largest, found.before) == (None, 0, 1.0, found.after)
    assert all(torch.equal(model.state_dict()[name], x) for name, x in before.items())


@pytest.mark.parametrize("make", TINY_MODELS.values(), ids=TINY_MODELS)
def test_peaks_are_those_of_real_tokens(make: object) -> None:
    model: PreTrainedModel = make()  # type: ignore[operator]
    wrap(model)
    tensors = find_family(model.config.model_type).stream_tensors(model)
    batch = rows(8)[0]
    mask = batch["attention_mask"].bool()
    assert not mask.all()
    path = tensors[1].writers[0]
    seen: list[Tensor] = []
    hook = model.get_submodule(path).register_forward_hook(lambda module, given, found: seen.append(found))
    with torch.no_grad(), disable_quantizers(model):
        peaks, _ = measure_peaks(model, tensors, [batch])
    hook.remove()
    expected = torch.zeros(model.config.hidden_size)
    for x in seen:  # a shared layer runs several times
        tokens = x.transpose(1, 2) if make is tiny_squeezebert else x
        expected = torch.maximum(expected, tokens[mask].abs().amax(dim=0))
    assert torch.equal(peaks[path], expected)


def test_calibration_equalizes_unless_told_not_to() -> None:
    model = with_outliers()
    other = copy.deepcopy(model)
    done = calibrate(model, tiny_batches(32), settings=CalibrationSettings(method="max"))
    left = calibrate(other, tiny_batches(32), settings=CalibrationSettings(method="max", equalize=False))
    assert done.equalization is not None
    assert done.equalization.largest >= 4
    assert left.equalization is None
    name = "bert.encoder.layer.0.ffn_quantizer"
    amax = {which: {row.name: row.amax for row in each.ranges}[name] for which, each in (("on", done), ("off", left))}
    assert amax["on"] < 0.5 * amax["off"]


def test_activations_that_are_not_finite_are_left_to_the_pass_that_names_their_batch() -> None:
    model = tiny_bert()
    wrap(model)
    with torch.no_grad():
        model.get_parameter("bert.encoder.layer.0.output.dense.weight")[0, 0] = math.nan
    assert equalize_stream(model, rows(8)) is None


def test_divergence_of_answers_without_logits_is_their_squared_distance() -> None:
    wanted = {"last_hidden_state": torch.zeros(1, 2)}
    assert divergence({"last_hidden_state": torch.tensor([[3.0, 4.0]])}, wanted) == 25.0
    assert divergence({"logits": torch.tensor([[2.0]])}, {"logits": torch.tensor([[1.0]])}) == 1.0
