"""What calibration refuses, and the state it leaves a model in, whether it succeeds or not."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from calibration.calibrate import calibrate
from calibration.ranges import METHODS
from calibration.settings import CalibrationSettings
from qat.errors import CheckpointError, DataError, QDQError, RangeError
from qat.huggingface import quantization_config, wrap
from qat.quantizer import named_quantizers, quantizers_without_range
from tests.calibrated import make_calibrated, tiny_batches
from tests.tiny import TINY_MODELS, tiny_albert, tiny_bert
from tests.tolerances import PADDING

Batches = list[dict[str, torch.Tensor]]

MAX = CalibrationSettings(method="max")
RARE = 94
"""A token that no tiny row holds."""

family = pytest.mark.parametrize("make", TINY_MODELS.values(), ids=TINY_MODELS)


def refuse(model: PreTrainedModel, batches: Batches, error: type[QDQError]) -> str:
    with pytest.raises(error) as caught:
        calibrate(model, batches)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def wrapped(model: PreTrainedModel) -> PreTrainedModel:
    wrap(model)
    return model


def break_token(model: PreTrainedModel, value: float) -> Batches:
    """Batches of which the second holds a token whose embedding is not finite."""
    with torch.no_grad():
        model.get_input_embeddings().weight[RARE] = value  # type: ignore[operator]
    first, second = tiny_batches()
    second["input_ids"][3, 1] = RARE
    return [first, second]


def test_no_batches() -> None:
    assert refuse(wrapped(tiny_bert()), [], DataError) == "no calibration batches were given: at least one is needed"


def test_a_batch_of_nothing_but_padding() -> None:
    first, second = tiny_batches()
    second["attention_mask"] = torch.zeros_like(second["attention_mask"])
    message = refuse(wrapped(tiny_bert()), [first, second], DataError)
    assert message == "batch 2 holds nothing but padding: remove its empty rows"


def test_a_batch_without_rows() -> None:
    message = refuse(wrapped(tiny_bert()), [{"input_ids": torch.zeros(0, 5, dtype=torch.int64)}], DataError)
    assert message == "batch 1 holds nothing but padding: remove its empty rows"


def test_one_empty_row_among_others_is_left_out() -> None:
    (batch,) = tiny_batches(8)
    batch["attention_mask"][5] = 0
    model, expected = wrapped(tiny_bert()), wrapped(tiny_bert())
    assert calibrate(model, [batch], settings=MAX).tokens == int(batch["attention_mask"].sum())
    calibrate(expected, [{name: x[torch.arange(8) != 5] for name, x in batch.items()}], settings=MAX)
    for (name, each), (_, other) in zip(named_quantizers(model), named_quantizers(expected), strict=True):
        torch.testing.assert_close(each.amax, other.amax, rtol=PADDING.value, atol=0, msg=name)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("make", "layer"),
    [(tiny_bert, "bert.encoder.layer.0"), (tiny_albert, "albert.encoder.albert_layer_groups.0.albert_layers.0")],
)
def test_activations_that_are_not_finite(make: Callable[[], PreTrainedModel], layer: str, value: float) -> None:
    model = wrapped(make())
    assert refuse(model, break_token(model, value), RangeError) == (
        f"activations at '{layer}.attention.hidden_quantizer' are not finite in batch 2: look for NaN or infinite "
        "weights in this layer or before it, or for broken inputs in that batch"
    )


def test_weights_that_are_not_finite_are_named_by_their_layer() -> None:
    model = wrapped(tiny_bert())
    with torch.no_grad():
        model.get_parameter("bert.encoder.layer.1.intermediate.dense.weight")[3, 4] = float("nan")
    message = refuse(model, tiny_batches(), RangeError)
    assert message.startswith(
        "activations at 'bert.encoder.layer.1.intermediate.dense.product_quantizer' are not finite in "
    )
    assert "in batch 1:" in message


def test_a_model_that_is_not_wrapped() -> None:
    assert refuse(tiny_bert(), tiny_batches(), CheckpointError) == (
        "the model is not quantized: qdq.wrap it, or load a folder that qdq calibrate wrote"
    )


def test_ranges_that_saw_no_data_are_named() -> None:
    model = wrapped(tiny_albert())
    model.config.num_hidden_layers = 2
    layer = "albert.encoder.albert_layer_groups.0.albert_layers.0"
    assert refuse(model, tiny_batches(), CheckpointError) == (
        f"8 quantizers saw no data: {layer}.attention.dense.input_quantizer (depth 2), "
        f"{layer}.attention.hidden_quantizer (depth 2), {layer}.attention.query_quantizer (depth 2), ...; "
        "give calibration batches that reach every layer"
    )
    assert quantization_config(model).state == "uncalibrated"


def test_quantizers_that_saw_no_data_are_named() -> None:
    model = wrapped(tiny_bert())
    first, second = model.get_submodule("bert.encoder.layer").children()
    model.get_submodule("bert.encoder").layer = nn.ModuleList([first])
    model.add_module("spare", second)
    message = refuse(model, tiny_batches(), CheckpointError)
    assert message.startswith("8 quantizers saw no data: spare.")
    assert "depth" not in message


def silence(model: PreTrainedModel) -> PreTrainedModel:
    """``model`` with a value projection that gives zero, and another that gives one number everywhere."""
    with torch.no_grad():
        for layer, value in ((0, 0.0), (1, 1.5)):
            projection = f"bert.encoder.layer.{layer}.attention.self.value"
            model.get_parameter(f"{projection}.weight").zero_()
            model.get_parameter(f"{projection}.bias").fill_(value)
    return model


@pytest.mark.parametrize("method", [*METHODS, "best"])
def test_constant_tensors_are_named_and_keep_a_usable_range(method: str) -> None:
    model = wrapped(silence(tiny_bert()))
    found = calibrate(model, tiny_batches(), settings=CalibrationSettings(method=method))
    values = [f"bert.encoder.layer.{layer}.attention.self.value_quantizer" for layer in (0, 1)]
    contexts = [f"bert.encoder.layer.{layer}.attention.output.dense.input_quantizer" for layer in (0, 1)]
    quantizers = dict(named_quantizers(model))
    assert set(values) <= set(found.constant) <= {*values, *contexts}
    assert quantizers[values[0]].amax.tolist() == [0.0]
    assert quantizers[values[1]].amax.tolist() == [1.5]
    assert torch.isfinite(model(tiny_batches()[0]["input_ids"]).logits).all()


@family
@pytest.mark.parametrize("training", [True, False])
def test_a_calibrated_model_is_left_as_it_was(make: Callable[[], PreTrainedModel], training: bool) -> None:
    model = wrapped(make())
    model.train(training)
    model.get_submodule(f"{model.base_model_prefix}.embeddings").eval()
    before = [module.training for module in model.modules()]
    weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    calibrate(model, tiny_batches())
    assert [module.training for module in model.modules()] == before
    assert all(quantizer.enabled for _, quantizer in named_quantizers(model))
    assert hooks_of(model) == 0
    assert quantizers_without_range(model) == []
    assert all(torch.equal(weight, weights[name]) for name, weight in model.named_parameters())
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())


def test_a_model_in_training_is_watched_without_dropout() -> None:
    model = wrapped(tiny_bert())
    model.train()
    calibrate(model, tiny_batches(), settings=MAX)
    expected = dict(named_quantizers(make_calibrated(tiny_bert())))
    assert all(torch.equal(quantizer.amax, expected[name].amax) for name, quantizer in named_quantizers(model))


@family
def test_a_refused_model_is_left_as_it_was(make: Callable[[], PreTrainedModel]) -> None:
    model = wrapped(make())
    model.train()
    missing = quantizers_without_range(model)
    refuse(model, break_token(model, float("nan")), RangeError)
    assert all(module.training for module in model.modules())
    assert all(quantizer.enabled for _, quantizer in named_quantizers(model))
    assert hooks_of(model) == 0
    assert quantizers_without_range(model) == missing != []
    assert quantization_config(model).state == "uncalibrated"


def test_a_refused_model_keeps_the_ranges_it_had() -> None:
    model = make_calibrated(tiny_bert())
    before = {name: quantizer.amax.clone() for name, quantizer in named_quantizers(model)}
    refuse(model, break_token(model, float("nan")), RangeError)
    assert all(torch.equal(quantizer.amax, before[name]) for name, quantizer in named_quantizers(model))


def test_a_quantizer_switched_off_stays_off() -> None:
    model = wrapped(tiny_bert())
    quantizers = dict(named_quantizers(model))
    off = quantizers["bert.encoder.layer.0.ffn_quantizer"]
    off.enabled = False
    calibrate(model, tiny_batches())
    assert [quantizer for quantizer in quantizers.values() if not quantizer.enabled] == [off]


def hooks_of(model: nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())
