"""A weight is quantized once in a forward pass, with the same gradients, and never out of date."""

import copy
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from qat import families
from qat.layers import QuantizedLayer, QuantLinear, holding_weights
from qat.quantizer import FakeQuantizer, disable_quantizers
from tests.test_qat.test_families import enable_checkpointing
from tests.test_qat.wrapped import (
    ALBERT_LAYER,
    FAMILIES,
    FamilyName,
    TinyModel,
    gradients,
    make_batch,
    make_wrapped,
    run,
)

SHARED = f"{ALBERT_LAYER}.ffn"


@pytest.fixture
def rounded(monkeypatch: pytest.MonkeyPatch) -> list[QuantizedLayer]:
    """The layers whose weight was quantized, in order."""
    seen: list[QuantizedLayer] = []
    plain = QuantizedLayer._round_weight

    def count(layer: QuantizedLayer) -> Tensor:
        seen.append(layer)
        return plain(layer)

    monkeypatch.setattr(QuantizedLayer, "_round_weight", count)
    return seen


def layers_of(model: nn.Module) -> list[QuantizedLayer]:
    layers = (module for module in model.modules() if isinstance(module, QuantizedLayer))
    return [layer for layer in layers if isinstance(layer.weight_quantizer, FakeQuantizer)]


def shared(model: TinyModel) -> QuantLinear:
    layer = model.get_submodule(SHARED)
    assert isinstance(layer, QuantLinear)
    return layer


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_is_quantized_once_a_pass(
    family: FamilyName, training: bool, rounded: list[QuantizedLayer]
) -> None:
    model = make_wrapped(family)
    nn.Module.train(model, training)
    model(**make_batch())
    assert len(rounded) == len(layers_of(model))
    assert len(set(map(id, rounded))) == len(rounded)
    model(**make_batch())
    assert len(rounded) == 2 * len(layers_of(model))


@pytest.mark.parametrize("recomputed", [None, False, True], ids=["kept", "recomputed", "recomputed, reentrant"])
def test_the_gradients_are_those_of_quantizing_each_time(
    recomputed: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_wrapped("albert")
    nn.Module.train(model)
    if recomputed is not None:
        enable_checkpointing(model, use_reentrant=recomputed)
    once = gradients(model)
    monkeypatch.setattr(families.albert, "holding_weights", lambda _: nullcontext())
    monkeypatch.setattr("qat.layers.holding_weights", lambda _: nullcontext())
    each = gradients(model)
    assert once.keys() == each.keys()
    for name, gradient in once.items():
        torch.testing.assert_close(gradient, each[name])


def test_nothing_is_held_after_a_pass_or_a_failed_one() -> None:
    model = make_wrapped("albert")
    run(model)
    assert {layer.held is None for layer in layers_of(model)} == {True}
    with pytest.raises(RuntimeError, match="size of tensor"):
        model.get_submodule("albert.encoder")(torch.zeros(1, 4, 16), attention_mask=torch.zeros(1, 1, 4, 5))
    assert {layer.held is None for layer in layers_of(model)} == {True}


CHANGES: dict[str, Callable[[TinyModel], object]] = {
    "an optimizer step": lambda model: _step(model),
    "a write past autograd": lambda model: shared(model).weight.data.mul_(2),
    "a load": lambda model: model.load_state_dict({name: 2 * x for name, x in model.state_dict().items()}),
    "another dtype": lambda model: nn.Module.to(model, torch.bfloat16),
}


def _step(model: TinyModel) -> None:
    model(**make_batch()).loss.backward()
    torch.optim.AdamW(model.parameters(), lr=0.1, fused=True).step()


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_weight_is_quantized_anew(change: str) -> None:
    model = make_wrapped("albert")
    run(model)
    CHANGES[change](model)
    layer = shared(model)
    expected = layer._round_weight()
    seen: list[Tensor] = []
    layer.register_forward_hook(lambda module, *_: seen.append(module.quantized_weight()))
    run(model)
    assert len(seen) == 3
    assert all(torch.equal(each, expected) for each in seen)


def test_a_copy_holds_nothing_of_its_original() -> None:
    model = make_wrapped("albert")
    with holding_weights(model), torch.no_grad():
        shared(model).quantized_weight()
        twin = copy.deepcopy(model)
        shared(twin).held = None
        shared(twin).weight.mul_(2)
        assert not torch.equal(shared(twin).quantized_weight(), shared(model).quantized_weight())


def test_switching_quantizers_off_inside_a_block_gives_the_float_weight() -> None:
    model = make_wrapped("albert")
    layer = shared(model)
    with holding_weights(model):
        held = layer.quantized_weight()
        with disable_quantizers(model):
            assert layer.quantized_weight() is layer.weight
        assert layer.quantized_weight() is held


def test_with_and_without_gradients_are_held_apart() -> None:
    model = make_wrapped("albert")
    layer = shared(model)
    with holding_weights(model):
        with torch.inference_mode():
            layer.quantized_weight()
        with torch.no_grad():
            assert not layer.quantized_weight().requires_grad
        assert layer.quantized_weight().requires_grad


def test_a_hook_on_the_quantizer_sees_every_depth() -> None:
    model = make_wrapped("albert")
    quantizer = shared(model).weight_quantizer
    seen: list[Tensor] = []
    quantizer.register_forward_hook(lambda module, args, output: seen.append(output))
    run(model)
    assert len(seen) == 3


def test_a_scale_follows_every_change_of_its_range() -> None:
    model = make_wrapped("bert")
    quantizer = next(each for each in model.modules() if isinstance(each, FakeQuantizer) and each.axis is None)
    for value in (1.0, 2.0):
        quantizer.set_range(torch.full_like(quantizer.amax, 127 * value))
        assert quantizer.scale().item() == value
    with torch.no_grad():
        quantizer.amax.mul_(2)
    assert quantizer.scale().item() == 4.0
    quantizer.load_state_dict({"amax": torch.full_like(quantizer.amax, 127.0)})
    assert quantizer.scale().item() == 1.0
    twin = copy.deepcopy(quantizer)
    twin.set_range(torch.full_like(twin.amax, 254.0))
    assert (quantizer.scale().item(), twin.scale().item()) == (1.0, 2.0)
    quantizer.learn_range()
    quantizer.amax.data.mul_(2)
    assert quantizer.scale().item() == 2.0
    quantizer.freeze_range()
    assert quantizer.scale().item() == 2.0
