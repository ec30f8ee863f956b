"""Mixed precision: under autocast a model learns, ranges stay FP32, and quantizers round what they are given."""

import pytest
import torch
from torch import Tensor, nn

from qat.learned_ranges import learning_ranges
from qat.quantizer import FakeQuantizer, named_quantizers
from tests import oracles
from tests.calibrated import make_calibrated, tiny_batches
from tests.test_qat.test_families import enable_checkpointing, spread_depths
from tests.test_qat.wrapped import FAMILIES, FamilyName, gradients, make_float, make_wrapped

HALVES = (torch.bfloat16, torch.float16)
half = pytest.mark.parametrize("dtype", HALVES, ids=str)
family = pytest.mark.parametrize("family", FAMILIES)
UNIT = 1024.0
"""What the loss is multiplied by, as a gradient scaler does it, so that no FP16 gradient falls to zero."""


@family
@half
def test_training_under_autocast_learns_and_leaves_the_ranges_fp32(family: FamilyName, dtype: torch.dtype) -> None:
    model = make_calibrated(make_float(family)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    (batch,) = tiny_batches(16, seed=1, batch_size=16)
    before = {name: each.amax.clone() for name, each in named_quantizers(model)}
    losses = []
    for _ in range(20):
        with torch.autocast("cpu", dtype):
            loss = model(**batch).loss
        (UNIT * loss).backward()
        for name, weight in model.named_parameters():
            assert weight.grad is not None, name
            assert weight.grad.dtype == torch.float32
            assert bool(torch.isfinite(weight.grad).all()), name
            weight.grad /= UNIT
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])
    for name, quantizer in named_quantizers(model):
        assert quantizer.amax.dtype == torch.float32
        assert quantizer.spec.range_source == "weight" or torch.equal(quantizer.amax, before[name])


@family
@half
def test_a_quantizer_rounds_what_autocast_gives_it(family: FamilyName, dtype: torch.dtype) -> None:
    model = make_wrapped(family)
    met: list[tuple[FakeQuantizer, Tensor, Tensor, Tensor]] = []

    def note(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, FakeQuantizer)
        met.append((module, arguments[0].detach(), module.scale().detach(), output.detach()))

    for _, quantizer in named_quantizers(model):
        quantizer.register_forward_hook(note)
    with torch.autocast("cpu", dtype):
        model(**tiny_batches(8)[0])
    assert {x.dtype for _, x, _, _ in met} == {torch.float32, dtype}
    for quantizer, x, scale, y in met:
        expected = oracles.fake_quantize(x.float().numpy(), scale.numpy(), quantizer.axis)
        assert y.dtype == x.dtype
        assert torch.equal(y, torch.from_numpy(expected).to(dtype=x.dtype)), quantizer.name


@family
@half
def test_checkpointing_under_autocast_gives_the_same_gradients(family: FamilyName, dtype: torch.dtype) -> None:
    model = spread_depths(make_wrapped(family)).train()
    with torch.autocast("cpu", dtype), learning_ranges(model):
        expected = gradients(model)
        enable_checkpointing(model, use_reentrant=False)
        found = gradients(model)
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    assert any(name.endswith("amax") for name in found)
