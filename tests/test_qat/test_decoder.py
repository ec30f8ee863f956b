"""BERT as a decoder: causal, with a cache and without one, with another model's states and without; step by step."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertLMHeadModel, DynamicCache, EncoderDecoderCache, PreTrainedModel

from calibration.calibrate import calibrate
from calibration.settings import CalibrationSettings
from qat.huggingface import unwrap, wrap
from qat.quantizer import calibrated_quantizers, disable_quantizers, named_quantizers
from tests.tiny_decoders import Batch, decoder_batch, make_calibrated_decoder, tiny_decoder
from tests.tolerances import PADDING

STATES = 7
CASES = [0, STATES]


def calibrated(states: int) -> PreTrainedModel:
    return make_calibrated_decoder(states=states)


def logits(model: PreTrainedModel, batch: Batch) -> Tensor:
    forward: Any = model
    with torch.no_grad():
        found: Tensor = forward(**batch).logits
    return found


def step_by_step(model: PreTrainedModel, batch: Batch, states: int) -> Tensor:
    """The logits of one token after the other, keys and values kept."""
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache()) if states else DynamicCache()
    shared = {name: x for name, x in batch.items() if name.startswith("encoder_")}
    found = []
    with torch.no_grad():
        for place in range(batch["input_ids"].shape[1]):
            token = batch["input_ids"][:, place : place + 1]
            found.append(model(input_ids=token, past_key_values=cache, use_cache=True, **shared).logits)
    return torch.cat(found, dim=1)


def whole(states: int, seed: int = 5) -> Batch:
    batch = decoder_batch(3, 11, seed=seed, states=states)
    del batch["attention_mask"]
    batch["input_ids"] = batch["input_ids"].clamp(min=5)
    return batch


@pytest.mark.parametrize("states", CASES)
def test_without_quantizers_every_bit_is_that_of_eager_attention(states: int) -> None:
    model, batch = tiny_decoder(cross=states > 0), decoder_batch(3, 11, states=states)
    model.set_attn_implementation("eager")
    expected = logits(model, batch)
    wrap(model)
    with disable_quantizers(model):
        assert torch.equal(logits(model, batch), expected)
    assert torch.equal(logits(unwrap(model), batch), expected)


@pytest.mark.parametrize("states", CASES)
@pytest.mark.parametrize("quantized", [False, True])
def test_step_by_step_gives_the_logits_of_the_whole(states: int, *, quantized: bool) -> None:
    model, batch = calibrated(states), whole(states)
    if not quantized:
        for _, each in named_quantizers(model):
            each.enabled = False
    expected = logits(model, batch)
    torch.testing.assert_close(step_by_step(model, batch, states), expected, rtol=0, atol=PADDING.value)


@pytest.mark.parametrize("states", CASES)
def test_a_cache_changes_no_token_that_is_generated(states: int) -> None:
    model = calibrated(states)
    batch = decoder_batch(4, 9, seed=3, states=states)
    batch |= {name: batch[name].flip(1) for name in ("input_ids", "attention_mask")}  # prompts are padded in front
    asked = {"max_new_tokens": 32, "do_sample": False, "pad_token_id": 0}
    kept = {"past_key_values": EncoderDecoderCache(DynamicCache(), DynamicCache())} if states else {}
    generate: Any = model.generate
    with_cache = generate(**batch, **asked, **kept)  # by itself generate makes a cache with no place for states
    without = generate(**batch, **asked, use_cache=False)
    assert with_cache.shape == (4, 41)
    assert torch.equal(with_cache, without)


def test_a_token_reads_none_behind_it() -> None:
    model, batch = calibrated(0), whole(0)
    other = {"input_ids": batch["input_ids"].clone()}
    other["input_ids"][:, 6:] = 9
    assert torch.equal(logits(model, batch)[:, :6], logits(model, other)[:, :6])


def test_the_states_have_one_quantizer_for_all_layers() -> None:
    model = calibrated(STATES)
    quantizers = dict(named_quantizers(model))
    owned = [name for name in quantizers if "encoder_quantizer" in name]
    assert owned == ["bert.encoder.encoder_quantizer"]
    assert not [name for name in quantizers if "crossattention.self" in name and "input_quantizer" in name]
    batches = [decoder_batch(8, 24, seed=each, states=STATES) for each in range(3)]
    real = [batch["encoder_hidden_states"][batch["encoder_attention_mask"] == 1] for batch in batches]
    assert float(quantizers[owned[0]].amax) == pytest.approx(float(torch.cat(real).abs().max()))


def test_only_what_reads_one_tensor_shares_a_range() -> None:
    layer: Any = calibrated(STATES).get_submodule("bert.encoder.layer.0")
    own, cross = layer.attention.self, layer.crossattention.self
    assert len(own.query.partners) == 2
    assert (cross.query.partners, cross.key.partners, cross.value.partners) == ((), (cross.value,), (cross.key,))


def test_padding_of_the_states_enters_no_range() -> None:
    first, second = tiny_decoder(cross=True), tiny_decoder(cross=True)
    batches = [decoder_batch(6, 10, seed=each, states=STATES) for each in range(2)]
    for model, filler in ((first, 0.0), (second, 1e4)):
        wrap(model)
        given = [
            {**batch, "encoder_hidden_states": batch["encoder_hidden_states"].where(padding == 1, filler)}
            for batch in batches
            for padding in [batch["encoder_attention_mask"][..., None]]
        ]
        calibrate(model, given, settings=CalibrationSettings(method="max", equalize=False))
    ranges = [{name: float(each.amax) for name, each in calibrated_quantizers(model)} for model in (first, second)]
    assert ranges[0] == ranges[1]


@pytest.mark.parametrize("states", CASES)
def test_best_ranges_are_found(states: int) -> None:
    model = tiny_decoder(cross=states > 0)
    wrap(model)
    batches = [decoder_batch(6, 10, seed=each, states=states) for each in range(2)]
    calibrate(model, batches, settings=CalibrationSettings(search_rows=6))
    assert model.config.use_cache
    assert torch.isfinite(logits(model, batches[0])).all()


def test_units_of_the_stream_hold_with_and_without_states() -> None:
    model = tiny_decoder(cross=True)
    batch = decoder_batch(6, 10, states=STATES)
    outlier: Any = model.get_submodule("bert.encoder.layer.0.crossattention.output.LayerNorm")
    with torch.no_grad():
        outlier.weight[3] *= 50
        outlier.weight[3] += 30
    model.set_attn_implementation("eager")
    own = {name: batch[name] for name in ("input_ids", "attention_mask")}
    expected = logits(model, batch), logits(model, own)
    wrap(model)
    done = calibrate(model, [batch], settings=CalibrationSettings(method="max")).equalization
    assert done is not None
    assert done.channels > 0
    with disable_quantizers(model):
        assert torch.equal(logits(model, batch), expected[0])
        assert torch.equal(logits(model, own), expected[1])


@pytest.mark.parametrize("states", CASES)
def test_a_saved_decoder_comes_back_bit_by_bit(states: int, tmp_path: Path) -> None:
    model, batch = calibrated(states), decoder_batch(3, 11, states=states)
    model.save_pretrained(tmp_path)
    again = BertLMHeadModel.from_pretrained(tmp_path)
    assert torch.equal(logits(again, batch), logits(model, batch))
    assert again.cls.predictions.decoder.weight is again.bert.embeddings.word_embeddings.weight


def test_training_moves_the_weights_of_every_attention() -> None:
    model, batch = calibrated(STATES).train(), decoder_batch(4, 12, states=STATES)
    model(**batch, labels=batch["input_ids"]).loss.backward()
    still = [name for name, x in model.named_parameters() if ".encoder." in name and not float(x.grad.abs().sum())]
    assert [name for name in still if not name.endswith("key.bias")] == []  # softmax takes no notice of a key's bias


def test_a_recipe_without_sharing_gives_each_reader_of_the_states_its_own() -> None:
    model = tiny_decoder(cross=True)
    wrap(model, "qdqbert")
    owners = [name for name, _ in named_quantizers(model)]
    assert "bert.encoder.layer.1.crossattention.self.key.input_quantizer" in owners
    assert "bert.encoder.encoder_quantizer" not in owners
