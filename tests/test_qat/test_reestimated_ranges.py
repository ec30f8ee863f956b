"""Re-estimated ranges: they follow what passes at the ratio calibration chose, real tokens only, then stand still."""

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from qat.finetune import finetune
from qat.finetune_settings import FinetuneSettings
from qat.quantizer import calibrated_quantizers, disable_quantizers
from qat.reestimated_ranges import ReestimatedRanges
from tests.calibrated import encode_tiny, make_calibrated, tiny_batches
from tests.tiny import TINY_MODELS, tiny_bert, tiny_tokenizer

family = pytest.mark.parametrize("name", TINY_MODELS)


def batches() -> list[dict[str, Tensor]]:
    return [{name: x for name, x in batch.items() if name != "labels"} for batch in tiny_batches()]


def ranges_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: quantizer.amax.clone() for name, quantizer in calibrated_quantizers(model)}


def pass_through(model: PreTrainedModel, policy: ReestimatedRanges, batch: dict[str, Tensor]) -> None:
    policy.begin(batch)
    with disable_quantizers(model):
        model(**batch)


@family
def test_an_unchanged_model_keeps_its_ranges(name: str) -> None:
    """All momentum on one step, the mean of the reference batches' largest values being that batch's."""
    model = make_calibrated(TINY_MODELS[name]())
    for _, quantizer in calibrated_quantizers(model):
        quantizer.set_range(quantizer.amax * 0.75)
    before, (batch, *_) = ranges_of(model), batches()
    policy = ReestimatedRanges(momentum=1.0, until=1.0)
    with policy.training(model, lambda: [batch]):
        nn.Module.train(model, True)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        pass_through(model, policy, batch)
        policy.step(1, 1)
    for path, amax in ranges_of(model).items():
        torch.testing.assert_close(amax, before[path], rtol=1e-6, atol=0.0)


def test_a_range_moves_by_its_momentum_towards_the_ratio_of_the_largest_real_value() -> None:
    model = make_calibrated(tiny_bert())
    path, quantizer = next(each for each in calibrated_quantizers(model) if each[0].endswith(".hidden_quantizer"))
    x = torch.tensor([[[1.0, -2.0], [0.5, 9.0]]])
    mask = torch.tensor([[1, 0]])
    quantizer.set_range(torch.tensor([1.0]))
    policy = ReestimatedRanges(momentum=0.25, until=0.5)
    with policy.training(model, lambda: batches()[:1]):
        policy._ratios = {(path, 0): torch.tensor(0.5)}
        nn.Module.train(model, True)
        policy.begin({"input_ids": mask, "attention_mask": mask})
        quantizer(x * 3)
        quantizer(x * 2)
        policy.step(1, 4)
        assert quantizer.amax.tolist() == [1.0 + 0.25 * (0.5 * 6.0 - 1.0)]
        quantizer(x * 100)
        policy.step(3, 4)
        assert quantizer.amax.tolist() == [1.5], "after half of the steps ranges stand still"
        policy.step(1, 4)
        assert quantizer.amax.tolist() == [1.5], "what was seen then is forgotten"
        nn.Module.eval(model)
        quantizer(x * 100)
        policy.step(1, 4)
        assert quantizer.amax.tolist() == [1.5], "rows that are only scored move nothing"


def test_a_tensor_that_is_zero_everywhere_keeps_a_range() -> None:
    model = make_calibrated(tiny_bert())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "value" in name:
                weight.zero_()
    before = ranges_of(model)
    policy = ReestimatedRanges(momentum=0.5, until=1.0)
    with policy.training(model, batches):
        nn.Module.train(model, True)
        pass_through(model, policy, batches()[0])
        policy.step(1, 1)
    dead = [name for name in before if name.endswith("value_quantizer")]
    assert dead
    assert all(bool(torch.isfinite(amax).all()) for amax in ranges_of(model).values())


@family
def test_training_moves_every_range_and_leaves_no_hook(name: str) -> None:
    model = make_calibrated(TINY_MODELS[name]())
    before = ranges_of(model)
    settings = FinetuneSettings(
        max_steps=6, batch_size=8, learning_rate=1e-2, ranges="reestimated", range_rate=0.2, held_out=0
    )
    finetune(model, encode_tiny(32, seed=1), tokenizer=tiny_tokenizer(), settings=settings)
    after = ranges_of(model)
    assert [path for path in after if not bool((after[path] != before[path]).all())] == []
    assert all(not quantizer._forward_pre_hooks for _, quantizer in calibrated_quantizers(model))
