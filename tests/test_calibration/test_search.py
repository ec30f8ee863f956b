"""``best``: the search measures what a range does to the model's answers, and finds what brute force finds."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from calibration.calibrate import calibrate, observe_batches
from calibration.candidates import set_ranges
from calibration.probe import Probe, join_rows, split_rows
from calibration.replay import Call, list_layers, list_parts, project, record_calls, run_up_to
from calibration.search import add_harms, descend_ladder, search_ranges
from calibration.settings import CalibrationSettings
from qat.answers import read_answers
from qat.huggingface import wrap
from qat.quantizer import calibrated_quantizers, disable_quantizers, named_quantizers
from tests.calibrated import tiny_batches
from tests.tiny import TINY_MODELS, tiny_albert, tiny_bert
from tests.tolerances import PADDING, PROJECTIONS, REPLAYED

Batches = list[dict[str, Tensor]]
family = pytest.mark.parametrize("make", [tiny_bert, tiny_albert])


def unlabelled(batches: Batches) -> Batches:
    return [{name: x for name, x in each.items() if name != "labels"} for each in batches]


def wrapped(make: Callable[[], PreTrainedModel], recipe: str = "tensorrt") -> PreTrainedModel:
    model = make()
    wrap(model, recipe)
    return model


@family
def test_every_run_of_every_layer_is_recorded(make: Callable[[], PreTrainedModel]) -> None:
    model = wrapped(make)
    calls = record_calls(model, unlabelled(tiny_batches(16)), list_layers(model))
    layers = {call.name for call in calls}
    assert [call.depth for call in calls] == ([0, 0] * 2 if make is tiny_bert else [0, 1, 2] * 2)
    assert len(layers) == (2 if make is tiny_bert else 1)
    assert all(len(call.gradients) == 4 and not call.answer.requires_grad for call in calls)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("make", TINY_MODELS.values(), ids=TINY_MODELS)
def test_a_part_with_nothing_switched_on_does_no_harm(make: Callable[[], PreTrainedModel]) -> None:
    model = wrapped(make)
    calls = record_calls(model, unlabelled(tiny_batches(8)), list_parts(model))
    layers = list_layers(model)
    with torch.no_grad(), disable_quantizers(model):
        assert max(call.measure() for call in calls) <= REPLAYED.value
        for part in (call for call in calls if call.name not in layers):
            around = [call for call in calls if part.name.startswith(f"{call.name}.") and call.depth == part.depth]
            (again,) = run_up_to([part], around)
            assert again.measure() <= REPLAYED.value


def test_a_part_is_given_what_the_layer_around_it_gives_now() -> None:
    model = wrapped(tiny_bert)
    calls = {call.name: call for call in record_calls(model, unlabelled(tiny_batches(8)), list_parts(model))}
    layer, output = calls["bert.encoder.layer.0"], calls["bert.encoder.layer.0.output"]
    quantizers = dict(calibrated_quantizers(model))
    quantizer = quantizers["bert.encoder.layer.0.attention.hidden_quantizer"]
    quantizer.set_range(torch.full_like(quantizer.amax, 0.5))
    with torch.no_grad(), disable_quantizers(model):
        quantizer.enabled = True
        (now,) = run_up_to([output], [layer])
        assert output.measure() == 0.0
        assert 0.0 < now.measure() == layer.measure()


def test_projections_have_the_gauss_newton_matrix_of_the_softmax() -> None:
    logits = torch.tensor([[0.3, -1.0, 2.0, 0.5]], requires_grad=True)
    generator = torch.Generator().manual_seed(0)
    moments = torch.zeros(4, 4)
    for _ in range(2000):
        for scalar in project({"logits": logits}, generator):
            (gradient,) = torch.autograd.grad(scalar, logits)
            moments += gradient.T @ gradient / 8000
    shares = logits.detach().softmax(dim=-1)[0]
    torch.testing.assert_close(moments, shares.diag() - shares[:, None] * shares, rtol=0, atol=PROJECTIONS.value)


def test_logits_of_padded_tokens_do_not_count() -> None:
    x = torch.randn(2, 3, 5, requires_grad=True)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    for scalar in project(read_answers({"logits": x}, {"attention_mask": mask}), torch.Generator().manual_seed(0)):
        (gradient,) = torch.autograd.grad(scalar, x, retain_graph=True)
        assert torch.equal(gradient.abs().sum(dim=-1) > 0, mask.bool())


def test_padded_tokens_are_no_ends_of_a_span() -> None:
    x = torch.randn(2, 3, requires_grad=True)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    for scalar in project(
        read_answers({"start_logits": x}, {"attention_mask": mask}), torch.Generator().manual_seed(0)
    ):
        (gradient,) = torch.autograd.grad(scalar, x, retain_graph=True)
        assert torch.equal(gradient != 0, mask.bool())


@family
@pytest.mark.parametrize("recipe", ["tensorrt", "qdqbert", "linear"])
def test_the_search_harms_less_than_any_single_scale(make: Callable[[], PreTrainedModel], recipe: str) -> None:
    model = wrapped(make, recipe)
    batches = unlabelled(tiny_batches(16))
    histograms = observe_batches(model, batches).histograms
    found = search_ranges(model, batches, histograms, CalibrationSettings())

    def harm(ranges: dict[str, list[float]]) -> float:
        set_ranges(model, ranges)
        with disable_quantizers(model):
            for _, each in calibrated_quantizers(model):
                each.enabled = True
            return sum(call.measure() for call in calls)

    calls: list[Call] = record_calls(model, batches, list_layers(model))
    with torch.no_grad():
        best = harm(found)
        scaled = [
            harm({name: [share * each.largest for each in depths] for name, depths in histograms.items()})
            for share in (1.0, 0.7, 0.5)
        ]
    assert best <= min(scaled)
    assert all(amax <= histograms[name][at].largest for name, each in found.items() for at, amax in enumerate(each))


def test_harms_are_added_only_as_far_as_they_matter() -> None:
    calls: list[Call] = record_calls(model := wrapped(tiny_albert), unlabelled(tiny_batches(16)), list_layers(model))
    begun: list[int] = []
    _, quantizer = next(iter(calibrated_quantizers(model)))
    quantizer.set_range(torch.full_like(quantizer.amax, 0.05))
    with torch.no_grad(), disable_quantizers(model):
        quantizer.enabled = True
        whole = add_harms(calls, math.inf)
        some = add_harms(calls, 0.0, begun.append)
        assert whole == sum(call.measure() for call in calls)
        assert 0 < some == calls[0].measure()
    assert begun == [0]


def test_the_ladder_goes_on_while_one_of_two_helps() -> None:
    harms = iter([3.0, 4.0, 2.0, 5.0, 5.0, 0.0])
    tried: list[float] = []

    def harm(amax: float) -> float:
        tried.append(amax)
        return next(harms)

    descend_ladder(harm, 1.0, 2.0)
    assert len(tried) == 5


def test_the_search_leaves_the_model_as_it_was() -> None:
    model = wrapped(tiny_albert)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    calibrate(model, tiny_batches())
    assert all(each.enabled for _, each in named_quantizers(model))
    assert all(torch.equal(weight, before[name]) and weight.requires_grad for name, weight in model.named_parameters())


def test_a_tensor_of_zeros_has_no_range_to_search() -> None:
    model = wrapped(tiny_bert)
    with torch.no_grad():
        model.get_parameter("bert.encoder.layer.0.attention.self.value.weight").zero_()
        model.get_parameter("bert.encoder.layer.0.attention.self.value.bias").zero_()
    found = calibrate(model, tiny_batches())
    dead = "bert.encoder.layer.0.attention.self.value_quantizer"
    assert dict(calibrated_quantizers(model))[dead].amax.tolist() == [0.0]
    assert found.constant == (dead, "bert.encoder.layer.0.attention.output.dense.input_quantizer")
    with torch.no_grad():
        assert bool(model(**unlabelled(tiny_batches(4))[0]).logits.isfinite().all())


def test_rows_come_out_of_a_batch_and_go_into_another() -> None:
    (batch,) = unlabelled(tiny_batches(8))
    rows = sorted(split_rows(batch), key=lambda row: row["attention_mask"].shape[-1])
    joined = join_rows(rows[:3])
    model = tiny_bert()
    lengths = batch["attention_mask"].sum(dim=1)
    with torch.no_grad():
        expected = model(**batch).logits[lengths.argsort(stable=True)[:3]]
        torch.testing.assert_close(model(**joined).logits, expected, rtol=0, atol=PADDING.value)
    assert joined["input_ids"].shape == (3, int(lengths.sort().values[2]))


def test_a_probe_is_the_same_from_one_process_or_two() -> None:
    batches = [{"input_ids": torch.full((1, 2), number)} for number in range(300)]
    whole, first, second = Probe(), Probe(), Probe()
    for number, batch in enumerate(batches, start=1):
        whole.add(batch, number)
        (first if number % 2 else second).add(batch, number)
    first.merge(second.batches)
    assert list(whole.batches) == sorted(first.batches)
    assert len(whole.batches) <= 64
    assert len(whole.choose(10, batch_size=4)) == 3
    assert CalibrationSettings().search_rows == 24
