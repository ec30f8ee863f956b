"""The ranges calibration finds, against hooks on the float model; padding never counts."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from calibration.calibrate import calibrate, list_ranges
from calibration.settings import CalibrationSettings
from qat.huggingface import quantization_config, wrap
from qat.layers import QuantLinear
from qat.quantizer import FakeQuantizer, named_quantizers
from tests.calibrated import tiny_batches
from tests.tiny import tiny_albert, tiny_bert
from tests.tolerances import PADDING

Batches = list[dict[str, Tensor]]
MAKERS = {"bert": tiny_bert, "albert": tiny_albert}
PERCENTILE = CalibrationSettings(method="percentile", percentile=99.0)
MAX = CalibrationSettings(method="max")
SETTINGS = (MAX, PERCENTILE)

family = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
method = pytest.mark.parametrize("settings", SETTINGS, ids=["max", "percentile"])

_ATTENTION = {
    "attention.hidden_quantizer": ("{attention}.query", "input"),
    **{f"{{attention}}.{part}_quantizer": (f"{{attention}}.{part}", "output") for part in ("query", "key", "value")},
}
_BERT = _ATTENTION | {
    "attention.output.dense.input_quantizer": ("attention.output.dense", "input"),
    "ffn_quantizer": ("intermediate.dense", "input"),
    "output.dense.input_quantizer": ("output.dense", "input"),
}
_ALBERT = _ATTENTION | {
    "attention.dense.input_quantizer": ("attention.dense", "input"),
    "attention.ffn_quantizer": ("ffn", "input"),
    "ffn_output.input_quantizer": ("ffn_output", "input"),
}
"""For each range that is found from data: the float module it belongs to, and which side of it."""


def layers_of(make: Callable[[], PreTrainedModel]) -> dict[str, dict[str, tuple[str, str]]]:
    plan, attention = (_BERT, "attention.self") if make is tiny_bert else (_ALBERT, "attention")
    written = {
        name.format(attention=attention): (module.format(attention=attention), side)
        for name, (module, side) in plan.items()
    }
    if make is tiny_bert:
        return {f"bert.encoder.layer.{number}": written for number in range(2)}
    return {"albert.encoder.albert_layer_groups.0.albert_layers.0": written}


def oracle_magnitudes(make: Callable[[], PreTrainedModel], batches: Batches) -> dict[str, list[NDArray[Any]]]:
    """For every range: a list over depths of the magnitudes at real tokens, from hooks on the float model."""
    model = make()
    model.config._attn_implementation = "eager"
    found: dict[str, list[list[NDArray[Any]]]] = {}
    batch: dict[str, Tensor] = {}
    calls: dict[str, int] = {}

    def keep(name: str, x: Tensor) -> None:
        depth = calls[name] = calls.get(name, -1) + 1
        passes = found.setdefault(name, [])
        passes.extend([] for _ in range(depth + 1 - len(passes)))
        passes[depth].append(np.abs(x.numpy())[batch["attention_mask"].numpy() == 1].ravel())

    def watch(name: str, side: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda module, given, answer: keep(name, given[0] if side == "input" else answer)

    for layer, names in layers_of(make).items():
        for name, (module, side) in names.items():
            model.get_submodule(f"{layer}.{module}").register_forward_hook(watch(f"{layer}.{name}", side))
    for batch in batches:
        calls.clear()
        with torch.no_grad():
            model(batch["input_ids"], attention_mask=batch["attention_mask"])
    return {name: [np.concatenate(each) for each in passes] for name, passes in found.items()}


def ranges_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: each.amax for name, each in named_quantizers(model) if each.spec.range_source == "calibrated"}


def ranges_for(make: Callable[[], PreTrainedModel], batches: Batches, settings: CalibrationSettings) -> dict[str, Any]:
    model = make()
    wrap(model)
    calibrate(model, batches, settings=settings)
    return ranges_of(model)


@family
def test_max_ranges_are_those_of_hooks_on_the_float_model(make: Callable[[], PreTrainedModel]) -> None:
    batches = tiny_batches(24)
    expected = oracle_magnitudes(make, batches)
    found = ranges_for(make, batches, MAX)
    assert found.keys() == expected.keys()
    assert {name: amax.tolist() for name, amax in found.items()} == {
        name: [float(values.max()) for values in passes] for name, passes in expected.items()
    }


@family
def test_percentile_ranges_are_those_of_hooks_on_the_float_model(make: Callable[[], PreTrainedModel]) -> None:
    batches = tiny_batches(24)
    expected = oracle_magnitudes(make, batches)
    found = ranges_for(make, batches, PERCENTILE)
    assert found.keys() == expected.keys()
    for name, passes in expected.items():
        for amax, values in zip(found[name].tolist(), passes, strict=True):
            exact = np.percentile(values, 99.0, method="inverted_cdf")
            assert amax == min(float(np.float16(exact)), float(values.max())), name


@family
@method
def test_more_padding_gives_the_same_ranges(make: Callable[[], PreTrainedModel], settings: CalibrationSettings) -> None:
    batches = tiny_batches(24)
    wider = [{name: nn.functional.pad(x, (0, 9)) for name, x in each.items() if name != "labels"} for each in batches]
    narrow, wide = ranges_for(make, batches, settings), ranges_for(make, wider, settings)
    for name, amax in narrow.items():
        torch.testing.assert_close(wide[name], amax, rtol=PADDING.value, atol=0)


@family
@method
def test_huge_activations_at_padding_enter_no_range(
    make: Callable[[], PreTrainedModel], settings: CalibrationSettings
) -> None:
    batches = tiny_batches(24)
    model = make()
    wrap(model)
    padding = Tensor()
    blown: set[tuple[str, int]] = set()

    def blow_up(module: FakeQuantizer, given: tuple[Tensor]) -> tuple[Tensor]:
        heads = module.name.endswith(("query_quantizer", "key_quantizer", "value_quantizer"))
        where = padding[:, None, :, None] if heads else padding[:, :, None]
        blown.add((module.name, given[0].dim()))
        return (given[0].masked_fill(where, 1e6),)

    def watch_batches() -> Iterator[dict[str, Tensor]]:
        nonlocal padding
        for batch in batches:
            padding = batch["attention_mask"] == 0
            assert padding.any()
            yield batch

    for name, quantizer in named_quantizers(model):
        if name in ranges_of(model):
            quantizer.register_forward_pre_hook(blow_up)
    calibrate(model, watch_batches(), settings=settings)
    found, expected = ranges_of(model), ranges_for(make, batches, settings)
    assert {name for name, _ in blown} == expected.keys()
    assert {axes for _, axes in blown} == {3, 4}
    assert {name: amax.tolist() for name, amax in found.items()} == {n: amax.tolist() for n, amax in expected.items()}


def test_a_shared_layer_has_one_range_a_depth() -> None:
    for name, amax in ranges_for(tiny_albert, tiny_batches(), MAX).items():
        assert len(set(amax.tolist())) == 3, name


def test_merged_depths_share_the_widest_range() -> None:
    each = ranges_for(tiny_albert, tiny_batches(), MAX)
    merged = ranges_for(tiny_albert, tiny_batches(), CalibrationSettings(method="max", depths="merged"))
    assert {name: amax.tolist() for name, amax in merged.items()} == {
        name: [float(amax.max())] * 3 for name, amax in each.items()
    }


def test_groups_of_layers_have_the_depths_they_run() -> None:
    model = tiny_albert(num_hidden_layers=4, num_hidden_groups=2)
    wrap(model)
    calibrate(model, tiny_batches(), settings=MAX)
    assert {(name.split(".")[3], len(amax)) for name, amax in ranges_of(model).items()} == {("0", 2), ("1", 2)}


@pytest.mark.parametrize("target", ["rtx", "tensorrt"])
@family
def test_weights_and_probabilities_have_their_own_ranges(make: Callable[[], PreTrainedModel], target: str) -> None:
    model = make()
    wrap(model, target=target)
    calibrate(model, tiny_batches(), settings=MAX)
    assert {
        tuple(each.amax.tolist()) for name, each in named_quantizers(model) if name.endswith("probs_quantizer")
    } == {(1.0,) if make is tiny_bert else (1.0, 1.0, 1.0)}
    quantizers = dict(named_quantizers(model))
    layers = {name: each for name, each in model.named_modules() if isinstance(each, QuantLinear)}
    for name, layer in layers.items():
        weight = layer.weight.detach().numpy()
        group, _, part = name.rpartition(".")
        if target == "rtx" and part in ("query", "key", "value"):
            weight = np.stack([layers[f"{group}.{each}"].weight.detach().numpy() for each in ("query", "key", "value")])
        expected = np.abs(weight).max(axis=1) if target == "tensorrt" else np.abs(weight).max(keepdims=True).ravel()
        assert quantizers[f"{name}.weight_quantizer"].amax.tolist() == expected.tolist(), name


@family
def test_what_is_reported(make: Callable[[], PreTrainedModel]) -> None:
    model = make()
    wrap(model)
    batches = tiny_batches(20)
    done: list[int] = []
    found = calibrate(model, batches, settings=PERCENTILE, progress=done.append)
    assert done == [1, 2, 3]
    assert (found.batches, found.rows, found.settings) == (3, 20, PERCENTILE)
    assert found.tokens == sum(int(batch["attention_mask"].sum()) for batch in batches)
    assert found.ranges == tuple(list_ranges(model))
    assert {row.name for row in found.ranges} == {name for name, _ in named_quantizers(model)}
    quantizers = dict(named_quantizers(model))
    assert [row.amax for row in found.ranges] == [float(quantizers[row.name].amax[row.depth]) for row in found.ranges]
    assert quantization_config(model).state == "calibrated"


def test_a_weight_by_channel_is_reported_by_its_largest() -> None:
    model = tiny_bert()
    wrap(model, target="tensorrt")
    rows = {row.name: row for row in calibrate(model, tiny_batches(), settings=MAX).ranges}
    name = "bert.encoder.layer.0.intermediate.dense"
    weight = model.get_parameter(f"{name}.weight")
    assert rows[f"{name}.weight_quantizer"].amax == float(weight.abs().max().detach())


def test_labels_are_not_read() -> None:
    batches = [batch | {"labels": torch.full_like(batch["labels"], 99)} for batch in tiny_batches()]
    assert ranges_for(tiny_bert, batches, MAX).keys()


def test_batches_without_a_mask_count_whole() -> None:
    model = tiny_bert()
    wrap(model)
    batch = {"labels": torch.tensor([0, 1]), "input_ids": torch.randint(5, 90, (2, 7))}
    found = calibrate(model, [batch], settings=MAX)
    assert (found.rows, found.tokens) == (2, 14)
    masked = [batch | {"attention_mask": torch.ones(2, 7, dtype=torch.int64)}]
    expected = ranges_for(tiny_bert, masked, MAX)
    for name, amax in ranges_of(model).items():
        assert torch.equal(amax, expected[name]), name


def test_calibrating_again_forgets_what_was_seen() -> None:
    model = tiny_albert()
    wrap(model)
    calibrate(model, tiny_batches(8, seed=1), settings=MAX)
    calibrate(model, tiny_batches(8, seed=2), settings=MAX)
    expected = ranges_for(tiny_albert, tiny_batches(8, seed=2), MAX)
    for name, amax in ranges_of(model).items():
        assert torch.equal(amax, expected[name]), name
