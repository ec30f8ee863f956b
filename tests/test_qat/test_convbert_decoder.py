"""What upstream calls a ConvBERT decoder: cross-attention works as far as it does there."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from calibration.calibrate import calibrate
from calibration.settings import CalibrationSettings
from qat.huggingface import unwrap, wrap
from qat.quantizer import disable_quantizers, named_quantizers
from tests.tiny_decoders import Batch, decoder_batch, tiny_convbert_decoder

TOKENS = 12


def make_batch(seed: int = 0) -> Batch:
    """Upstream takes as many states as tokens, and their mask as it is added to the scores."""
    batch = decoder_batch(4, TOKENS, seed=seed, states=TOKENS, hidden=32)
    mask = (1.0 - batch["encoder_attention_mask"].float()) * -1e4
    return {**batch, "encoder_attention_mask": mask[:, None, None]}


def states(model: PreTrainedModel, batch: Batch) -> Tensor:
    forward: Any = model
    with torch.no_grad():
        found: Tensor = forward(**batch).last_hidden_state
    return found


def make_calibrated(method: str = "max") -> PreTrainedModel:
    model = tiny_convbert_decoder()
    wrap(model)
    calibrate(model, [make_batch(seed) for seed in range(3)], settings=CalibrationSettings(method=method))
    return model


def test_without_quantizers_every_bit_is_upstreams() -> None:
    model, batch = tiny_convbert_decoder(), make_batch()
    expected = states(model, batch)
    wrap(model)
    with disable_quantizers(model):
        assert torch.equal(states(model, batch), expected)
    assert torch.equal(states(unwrap(model), batch), expected)


def test_the_states_have_one_quantizer_for_all_layers() -> None:
    quantizers = dict(named_quantizers(make_calibrated()))
    assert [name for name in quantizers if "encoder_quantizer" in name] == ["encoder.encoder_quantizer"]
    real = [
        batch["encoder_hidden_states"][batch["encoder_attention_mask"][:, 0, 0] == 0]
        for batch in map(make_batch, range(3))
    ]
    assert float(quantizers["encoder.encoder_quantizer"].amax) == pytest.approx(float(torch.cat(real).abs().max()))


def test_only_what_reads_one_tensor_shares_a_range() -> None:
    cross: Any = make_calibrated().get_submodule("encoder.layer.0.crossattention.self")
    assert set(cross.query.partners) == {cross.conv_out_layer}
    assert cross.key.partners == (cross.value,)


def test_quantized_states_are_near_the_float_ones() -> None:
    model, batch = make_calibrated("best"), make_batch(9)
    with disable_quantizers(model):
        expected = states(model, batch)
    found = states(model, batch)
    assert 0 < float((found - expected).norm() / expected.norm()) < 0.2


def test_upstreams_decoder_reads_what_follows() -> None:
    model, batch = tiny_convbert_decoder(), make_batch()
    other = {**batch, "input_ids": batch["input_ids"].clone()}
    other["input_ids"][:, -1] = 9
    other["attention_mask"] = batch["attention_mask"] = torch.ones_like(batch["attention_mask"])
    assert not torch.equal(states(model, batch)[:, 0], states(model, other)[:, 0])


def test_upstream_takes_no_other_number_of_states() -> None:
    model, batch = tiny_convbert_decoder(), make_batch()
    short = {
        **batch,
        "encoder_hidden_states": batch["encoder_hidden_states"][:, :-2],
        "encoder_attention_mask": batch["encoder_attention_mask"][..., :-2],
    }
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        states(model, short)
