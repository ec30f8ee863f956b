"""Learned ranges: their gradient against LSQ's formula, their life as parameters, and that they repair bad ranges."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn
from transformers import PreTrainedModel, TrainingArguments

from qat.batches import Collator
from qat.errors import RangeError
from qat.fake_quant import fake_quantize
from qat.finetune import Finetuning, finetune
from qat.finetune_settings import FinetuneSettings
from qat.learned_ranges import LearnedRanges
from qat.quantizer import FakeQuantizer, named_quantizers
from qat.range_training import RangeTraining
from qat.reestimated_ranges import ReestimatedRanges
from qat.spec import SMALLEST_SCALE, QuantSpec
from qat.trainer import QATTrainer
from tests import oracles, tolerances
from tests.calibrated import encode_tiny, make_calibrated
from tests.oracles import Floats
from tests.tiny import tiny_albert, tiny_bert, tiny_tokenizer

ROWS = encode_tiny(32, seed=1)
LEARNED = FinetuneSettings(max_steps=6, batch_size=16, learning_rate=1e-4, ranges="learned", held_out=0)
TENTHS = st.integers(-3000, 3000).map(lambda tenths: tenths / 10)
"""In steps: both sides of the bounds, and no ties, where a slope has two answers."""


def train(model: PreTrainedModel, settings: FinetuneSettings = LEARNED) -> Finetuning:
    return finetune(model, ROWS, tokenizer=tiny_tokenizer(), settings=settings)


def ranges_of(model: nn.Module, source: str = "calibrated") -> dict[str, torch.Tensor]:
    return {name: each.amax.clone() for name, each in named_quantizers(model) if each.spec.range_source == source}


def shrink_ranges(model: nn.Module, share: float) -> None:
    for _, quantizer in named_quantizers(model):
        if quantizer.spec.range_source == "calibrated":
            quantizer.set_range(quantizer.amax * share)


@pytest.mark.parametrize("axis", [None, 0, 1])
@given(data=st.data())
def test_the_gradient_of_the_scale_is_the_formulas(axis: int | None, data: st.DataObject) -> None:
    shape = (4, 8)
    size = () if axis is None else (shape[axis],)
    scale = data.draw(arrays(np.float32, size, elements=st.floats(0.125, 8.0, width=16)))
    along = scale if axis is None else np.expand_dims(scale, 1 - axis)
    x = (data.draw(arrays(np.float32, shape, elements=TENTHS.map(float))) * along).astype(np.float32)
    upstream = data.draw(arrays(np.float32, shape, elements=st.integers(-8, 8).map(float)))
    learned = torch.from_numpy(scale).requires_grad_()
    fake_quantize(torch.from_numpy(x), learned, axis).backward(torch.from_numpy(upstream))
    assert learned.grad is not None
    expected = oracles.scale_gradient(x, scale, upstream, axis)
    largest = 128.0 * float(np.abs(upstream).sum()) + 1.0
    assert np.abs(learned.grad.numpy() - expected).max() <= tolerances.SCALE_GRADIENT.value * largest


def test_the_gradient_of_a_range_is_scaled_and_passes_the_rounding_of_the_scale() -> None:
    quantizer = FakeQuantizer(QuantSpec(), ranges=2, name="slot")
    quantizer.set_range(torch.tensor([1.0, 2.7]))
    x: Floats = np.array([[-3.0, 0.26, 1.0], [0.5, 2.0, -0.1]], np.float32)
    quantizer.depth = 1
    frozen = quantizer(torch.from_numpy(x))
    quantizer.learn_range()
    learned = quantizer(torch.from_numpy(x))
    assert torch.equal(learned, frozen)
    learned.sum().backward()
    gradient = oracles.scale_gradient(x, quantizer.scale().detach().numpy(), np.ones_like(x))
    assert quantizer.amax.grad is not None
    assert quantizer.amax.grad[0] == 0
    expected = float(gradient) / (127 * math.sqrt(127 * x[0].size))
    assert float(quantizer.amax.grad[1]) == pytest.approx(expected, rel=tolerances.SCALE_GRADIENT.value)


def test_a_range_below_the_smallest_scale_still_learns_and_is_stored_as_that_scale() -> None:
    quantizer = FakeQuantizer(QuantSpec(), ranges=1, name="slot")
    quantizer.set_range(torch.tensor([1.0]))
    quantizer.learn_range()
    with torch.no_grad():
        quantizer.amax.fill_(-0.5)
    y = quantizer(torch.tensor([3.0]))
    assert y.item() == 127 * SMALLEST_SCALE
    y.sum().backward()
    assert quantizer.amax.grad is not None
    assert quantizer.amax.grad.item() > 0
    quantizer.freeze_range()
    assert quantizer.amax.tolist() == [127 * SMALLEST_SCALE]
    assert dict(quantizer.named_parameters()) == {}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_cast_of_the_model_leaves_a_learned_range_alone(dtype: torch.dtype) -> None:
    quantizer = FakeQuantizer(QuantSpec(), ranges=1, name="slot")
    quantizer.set_range(torch.tensor([1.2345678]))
    quantizer.learn_range()
    quantizer.to(dtype)
    assert quantizer.amax.dtype == torch.float32
    assert quantizer.amax.tolist() == torch.tensor([1.2345678]).tolist()


def test_a_range_that_is_not_there_cannot_be_learned() -> None:
    model = make_calibrated(tiny_bert())
    names = [name for name, each in named_quantizers(model) if each.spec.range_source == "calibrated"]
    model.get_submodule(names[1]).get_buffer("amax").fill_(float("nan"))
    quantizer = dict(named_quantizers(model))[names[1]]
    quantizer.refresh_state()
    refusal = pytest.raises(RangeError, match=rf"^quantizer '{quantizer.name}' has no range: ")
    with refusal, LearnedRanges().training(model, lambda: ()):
        pytest.fail("the block must not run")
    assert [name for name, _ in model.named_parameters() if name.endswith("amax")] == []


@pytest.mark.parametrize("make", [tiny_bert, tiny_albert])
def test_training_moves_every_activation_range_and_leaves_buffers(make: type) -> None:
    model = make_calibrated(make())
    before, constant = ranges_of(model), ranges_of(model, "constant")
    train(model)
    after = ranges_of(model)
    assert [name for name, amax in after.items() if not bool((amax != before[name]).all())] == []
    assert all(bool((amax > 0).all()) for amax in after.values())
    assert all(torch.equal(amax, constant[name]) for name, amax in ranges_of(model, "constant").items())
    assert [name for name, _ in model.named_parameters() if name.endswith("amax")] == []
    reached = max(float((amax / before[name] - 1).abs().max()) for name, amax in after.items())
    assert reached <= LEARNED.range_rate * LEARNED.max_steps


def test_learned_ranges_repair_what_frozen_ones_cannot() -> None:
    settings = FinetuneSettings(max_steps=30, batch_size=32, learning_rate=1e-6, range_rate=0.1, held_out=0)
    frozen, learned = make_calibrated(tiny_bert()), make_calibrated(tiny_bert())
    shrink_ranges(frozen, 0.2)
    shrink_ranges(learned, 0.2)
    stuck = train(frozen, settings)
    freed = train(learned, settings.model_copy(update={"ranges": "learned"}))
    assert freed.first_loss - freed.last_loss > 4 * abs(stuck.first_loss - stuck.last_loss)


@pytest.mark.parametrize("ranges", [lambda: LearnedRanges(0.05), ReestimatedRanges], ids=["learned", "reestimated"])
def test_resuming_equals_not_stopping(ranges: Callable[[], RangeTraining], tmp_path: Path) -> None:
    def run(model: PreTrainedModel, resume: str | None) -> None:
        arguments = TrainingArguments(
            output_dir=str(tmp_path), max_steps=4, save_steps=2, per_device_train_batch_size=8, learning_rate=1e-3,
            report_to=[], disable_tqdm=True, dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = QATTrainer(
            model=model, args=arguments, train_dataset=ROWS, data_collator=Collator(pad_token_id=0), ranges=ranges()
        )
        trainer.train(resume_from_checkpoint=resume)

    whole, resumed = make_calibrated(tiny_bert()), make_calibrated(tiny_bert())
    run(whole, None)
    run(resumed, str(tmp_path / "checkpoint-2"))
    one, two = whole.state_dict(), resumed.state_dict()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []
