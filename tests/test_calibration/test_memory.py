"""Remembered products: a layer's answers keep every bit, and what lies before the quantizer is computed once."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from calibration.memory import LayerMemory
from calibration.replay import list_layers, record_calls
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
    calls = record_calls(model, [drop_targets(batch) for batch in tiny_batches(16)], list_layers(model))
    with torch.no_grad(), disable_quantizers(model):
        for name, quantizer in calibrated_quantizers(model):
            made = [call for call in calls if name.startswith(f"{call.name}.") and call.depth == 0]
            quantizer.enabled = True
            memory, remembered, computed = LayerMemory(), [], []
            with memory.remembering(made[0].module, quantizer):
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


@pytest.mark.parametrize(
    ("name", "expected"),
    [("attention.output.dense.input_quantizer", [6, 9, 12]), ("ffn_quantizer", [6, 8, 10])],
    ids=["q, k and v once", "the attention once"],
)
def test_only_what_follows_the_quantizer_is_computed_again(
    monkeypatch: pytest.MonkeyPatch, name: str, expected: list[int]
) -> None:
    model = tiny_bert(num_hidden_layers=1)
    wrap(model)
    (call,) = record_calls(model, [drop_targets(batch) for batch in tiny_batches(8)], list_layers(model))
    computed: list[int] = []
    compute = QuantLinear.forward

    def count(product: QuantLinear, x: Tensor) -> Tensor:
        computed.append(product.out_features)
        return compute(product, x)

    monkeypatch.setattr(QuantLinear, "forward", count)
    quantizers = {name.removeprefix(f"{call.name}."): each for name, each in calibrated_quantizers(model)}
    memory = LayerMemory()
    with torch.no_grad(), disable_quantizers(model):
        with memory.remembering(call.module, quantizers[name]):
            counts = []
            for _ in range(3):
                memory.begin(0)
                call.measure()
                counts.append(len(computed))
        assert counts == expected
        assert not any("forward" in vars(module) for module in model.modules())


def test_a_whole_part_is_computed_once_and_keeps_its_answer() -> None:
    model = tiny_bert(num_hidden_layers=1)
    wrap(model)
    (call,) = record_calls(model, [drop_targets(batch) for batch in tiny_batches(8)], list_layers(model))
    part = call.module.get_submodule("attention")
    runs: list[int] = []
    hook = part.get_submodule("output").register_forward_hook(lambda *_: runs.append(1))
    quantizer = dict(calibrated_quantizers(call.module))["ffn_quantizer"]
    memory = LayerMemory()
    with torch.no_grad(), disable_quantizers(model), memory.remembering(call.module, quantizer):
        for _ in range(3):
            memory.begin(0)
            assert call.measure() == 0.0
    hook.remove()
    assert len(runs) == 1
