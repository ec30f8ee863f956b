"""Remembered products: a layer's answers keep every bit, and what lies before the quantizer is computed once."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from calibration.memory import LayerMemory
from calibration.replay import record_calls
from qat.batches import drop_targets
from qat.huggingface import wrap
from qat.layers import QuantLinear
from qat.quantizer import calibrated_quantizers, disable_quantizers
from tests.calibrated import tiny_batches
from tests.tiny import tiny_albert, tiny_bert, tiny_convbert, tiny_squeezebert

TRIED = (4.0, 1.0, 0.25)


@pytest.mark.parametrize("make", [tiny_bert, tiny_albert, tiny_convbert, tiny_squeezebert])
def test_every_quantizer_does_the_harm_it_does_without_memory(make: Callable[[], PreTrainedModel]) -> None:
    model = make()
    wrap(model)
    calls = record_calls(model, [drop_targets(batch) for batch in tiny_batches(16)])
    with torch.no_grad(), disable_quantizers(model):
        for name, quantizer in calibrated_quantizers(model):
            made = [call for call in calls if name.startswith(f"{call.name}.") and call.depth == 0]
            quantizer.enabled = True
            memory, remembered, computed = LayerMemory(), [], []
            with memory.remembering(made[0].layer, quantizer):
                for amax in TRIED:
                    quantizer.set_range(torch.full_like(quantizer.amax, amax))
                    for run, call in enumerate(made):
                        memory.begin(run)
                        remembered.append(call.measure())
            for amax in TRIED:
                quantizer.set_range(torch.full_like(quantizer.amax, amax))
                computed += [call.measure() for call in made]
            quantizer.enabled = False
            assert remembered == computed


def test_only_what_follows_the_quantizer_is_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_bert(num_hidden_layers=1)
    wrap(model)
    (call,) = record_calls(model, [drop_targets(batch) for batch in tiny_batches(8)])
    computed: list[int] = []
    compute = QuantLinear.forward

    def count(product: QuantLinear, x: Tensor) -> Tensor:
        computed.append(product.out_features)
        return compute(product, x)

    monkeypatch.setattr(QuantLinear, "forward", count)
    quantizers = {name.removeprefix(f"{call.name}."): each for name, each in calibrated_quantizers(model)}
    memory = LayerMemory()
    with torch.no_grad(), disable_quantizers(model):
        with memory.remembering(call.layer, quantizers["attention.output.dense.input_quantizer"]):
            counts = []
            for _ in range(3):
                memory.begin(0)
                call.measure()
                counts.append(len(computed))
        assert counts == [6, 9, 12]  # q, k and v once
        assert not any("forward" in vars(module) for module in model.modules())
