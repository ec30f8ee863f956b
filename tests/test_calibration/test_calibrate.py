"""The ranges calibration finds, against hooks on the float model; padding never counts."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from calibration.calibrate import calibrate
from calibration.range_rows import list_ranges
from calibration.ranges import METHODS
from calibration.settings import CalibrationSettings
from qat.huggingface import quantization_config, wrap
from qat.layers import QuantizedLayer
from qat.quantizer import FakeQuantizer, named_quantizers
from tests.calibrated import tiny_batches
from tests.test_calibration.float_hooks import Batches, oracle_magnitudes
from tests.tiny import TINY_MODELS, tiny_albert, tiny_bert, tiny_squeezebert
from tests.tolerances import PADDING

PERCENTILE = CalibrationSettings(method="percentile", percentile=99.0)
MAX = CalibrationSettings(method="max")
COUNTED = {name: CalibrationSettings(method=name, percentile=99.0) for name in METHODS}
SEARCHED = {"best": CalibrationSettings(method="best")}

family = pytest.mark.parametrize("make", TINY_MODELS.values(), ids=TINY_MODELS)
BLIND_TO_PADDING = {"bert": tiny_bert, "albert": tiny_albert, "squeezebert": tiny_squeezebert}
"""The families that read no padding; a convolution over tokens does, in float as well."""

blind_to_padding = pytest.mark.parametrize("make", BLIND_TO_PADDING.values(), ids=BLIND_TO_PADDING)

counted = pytest.mark.parametrize("settings", COUNTED.values(), ids=COUNTED)
every_method = pytest.mark.parametrize("settings", (COUNTED | SEARCHED).values(), ids=COUNTED | SEARCHED)


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


def pad_rows(batches: Batches, by: int) -> Batches:
    return [{name: nn.functional.pad(x, (0, by)) for name, x in each.items() if name != "labels"} for each in batches]


@blind_to_padding
@every_method
def test_padding_and_batching_change_no_range(
    make: Callable[[], PreTrainedModel], settings: CalibrationSettings
) -> None:
    narrow = ranges_for(make, tiny_batches(24), settings)
    wide = ranges_for(make, pad_rows(tiny_batches(24, batch_size=5), 9), settings)
    assert wide.keys() == narrow.keys()
    for name, amax in narrow.items():
        torch.testing.assert_close(wide[name], amax, rtol=PADDING.value, atol=0, msg=name)


@blind_to_padding
@counted
def test_huge_activations_at_padding_enter_no_range(
    make: Callable[[], PreTrainedModel], settings: CalibrationSettings
) -> None:
    batches = tiny_batches(24)
    model = make()
    wrap(model)
    padding = Tensor()
    blown: set[tuple[str, int]] = set()

    def blow_up(module: FakeQuantizer, given: tuple[Tensor]) -> tuple[Tensor]:
        ones = (1,) * (given[0].dim() - 2)
        where = padding.reshape(*padding.shape, *ones).movedim(1, module.spec.token_axis)
        blown.add((module.name, given[0].dim()))
        return (given[0].clone().masked_fill_(where, 1e6),)  # keeps the layout, and so the order of sums

    def watch_batches() -> Iterator[dict[str, Tensor]]:
        nonlocal padding
        for batch in batches:
            padding = batch["attention_mask"] == 0
            assert padding.any()
            yield batch

    for name, quantizer in named_quantizers(model):
        if name in ranges_of(model):
            quantizer.register_forward_pre_hook(blow_up)
    settings = settings.model_copy(update={"equalize": False})  # it runs rows in batches of its own first
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
    } == {(1.0, 1.0, 1.0) if make is tiny_albert else (1.0,)}
    quantizers = dict(named_quantizers(model))
    layers = {name: each for name, each in model.named_modules() if isinstance(each, QuantizedLayer)}
    planned = [name for name in layers if f"{name}.weight_quantizer" in quantizers]
    assert {name for name in layers if name not in planned} == {name for name in layers if "depthwise" in name}
    for name in planned:
        weight, axis = layers[name].weight.detach().numpy(), layers[name].channel_axis
        group, _, _ = name.rpartition(".")
        parts = [f"{group}.{each}" for each in ("query", "key", "value", "conv_out_layer", "q_lin", "k_lin", "v_lin")]
        if target == "rtx" and name in parts:
            weight = np.stack([layers[each].weight.detach().numpy() for each in parts if each in layers])
        channels = np.abs(weight).max(axis=tuple(i for i in range(weight.ndim) if i != axis))
        expected = channels if target == "tensorrt" else np.abs(weight).max(keepdims=True).ravel()
        assert quantizers[f"{name}.weight_quantizer"].amax.tolist() == expected.tolist(), name


@family
def test_what_is_reported(make: Callable[[], PreTrainedModel]) -> None:
    model = make()
    wrap(model)
    batches = tiny_batches(20)
    done: list[tuple[str, int, int | None]] = []
    found = calibrate(
        model, batches, settings=PERCENTILE, progress=lambda phase, number, of: done.append((phase, number, of))
    )
    assert done == [("equalize", 0, None), *(("observe", number, None) for number in (1, 2, 3))]
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
