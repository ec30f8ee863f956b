"""Fine-tuning: it learns, it repeats bit by bit, it stores its ranges, it refuses what cannot train."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainingArguments

from qat.batches import Collator
from qat.errors import CheckpointError, QDQError, RangeError
from qat.finetune import Finetuning, finetune
from qat.finetune_settings import FinetuneSettings
from qat.huggingface import wrap
from qat.layers import QuantizedLayer
from qat.quantizer import FakeQuantizer, named_quantizers
from qat.trainer import QATTrainer
from tests.calibrated import encode_tiny, make_calibrated, tiny_batches
from tests.test_qat.wrapped import FACTS
from tests.tiny import TINY_MODELS, tiny_bert, tiny_tokenizer

Maker = Callable[[], PreTrainedModel]
ROWS = encode_tiny(32, seed=1)
SHORT = FinetuneSettings(max_steps=4, batch_size=8, learning_rate=1e-3, held_out=0)
RANDOM = SHORT.model_copy(update={"dropout": 0.1})

family = pytest.mark.parametrize("make", TINY_MODELS.values(), ids=TINY_MODELS)


def train(model: PreTrainedModel, settings: FinetuneSettings = SHORT, **named: Any) -> Finetuning:
    return finetune(model, ROWS, tokenizer=tiny_tokenizer(), settings=settings, **named)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLayer]:
    layers = {name: each for name, each in model.named_modules() if isinstance(each, QuantizedLayer)}
    return {name: each for name, each in layers.items() if isinstance(each.weight_quantizer, FakeQuantizer)}


def quantized_weights(model: nn.Module) -> dict[str, Tensor]:
    return {f"{name}.weight": layer.weight for name, layer in quantized_layers(model).items()}


def loss_of(model: PreTrainedModel) -> float:
    with torch.no_grad():
        return float(sum(model(**batch).loss for batch in tiny_batches(32, seed=1)))


def refuse(error: type[QDQError], work: Callable[[], object]) -> str:
    with pytest.raises(error) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@family
def test_the_loss_falls(make: Maker) -> None:
    model = make_calibrated(make())
    before = loss_of(model)
    done = train(model, FinetuneSettings(max_steps=30, batch_size=32, learning_rate=5e-3, held_out=0))
    assert done.steps == 30
    assert done.last_loss < 0.8 * done.first_loss
    assert loss_of(model) < 0.8 * before


@family
def test_every_quantized_weight_gets_a_gradient_and_changes(make: Maker) -> None:
    model = make_calibrated(make())
    before, weights = weights_of(model), quantized_weights(model)
    largest: dict[str, float] = {}

    def watch(name: str) -> Callable[[Tensor], None]:
        return lambda gradient: largest.update({name: max(largest.get(name, 0.0), float(gradient.abs().max()))})

    for name, weight in weights.items():
        weight.register_hook(watch(name))
    train(model)
    assert len(weights) == FACTS[model.config.model_type].weights
    assert [name for name in weights if not largest[name] > 0] == []
    assert [name for name, weight in weights.items() if torch.equal(weight, before[name])] == []


@family
def test_training_stores_the_ranges_of_the_weights_it_ends_with(make: Maker) -> None:
    for target in ("rtx", "tensorrt"):
        model = make_calibrated(make(), target=target)
        before = {name: quantizer.amax.clone() for name, quantizer in named_quantizers(model)}
        train(model)
        layers = quantized_layers(model)
        stored = {name: each.amax for name, each in named_quantizers(model)}
        for name, layer in layers.items():
            group, _, _ = name.rpartition(".")
            names = ("query", "key", "value", "conv_out_layer", "q_lin", "k_lin", "v_lin")  # the last are DistilBERT's
            parts = [f"{group}.{each}" for each in names]
            shared = target == "rtx" and name in parts
            tied = [layers[each] for each in parts if each in layers] if shared else [layer]
            axes = tuple(i for i in range(layer.weight.dim()) if target == "rtx" or i != layer.channel_axis)
            expected = torch.stack([each.weight.detach().abs().amax(axes) for each in tied]).amax(0).reshape(-1)
            assert torch.equal(stored[f"{name}.weight_quantizer"], expected), name
            assert not torch.equal(stored[f"{name}.weight_quantizer"], before[f"{name}.weight_quantizer"]), name
        activations = [name for name in stored if not name.endswith("weight_quantizer")]
        assert [name for name in activations if not torch.equal(stored[name], before[name])] == []


def test_the_same_seed_gives_the_same_weights() -> None:
    def run(seed: int) -> tuple[dict[str, Tensor], Finetuning]:
        model = make_calibrated(tiny_bert())
        torch.manual_seed(torch.seed())
        done = train(model, RANDOM.model_copy(update={"seed": seed}))
        return weights_of(model), done

    (first, done), (second, again), (other, _) = run(7), run(7), run(8)
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())
    assert (done.first_loss, done.last_loss) == (again.first_loss, again.last_loss)
    assert any(not torch.equal(weight, other[name]) for name, weight in first.items())


@family
def test_recomputing_activations_gives_the_same_weights(make: Maker) -> None:
    """Bit by bit: the backward pass repeats the same operations, dropout included, on the same numbers."""

    def run(checkpointing: bool) -> tuple[dict[str, Tensor], int]:
        model = make_calibrated(make())
        calls = 0

        def count(*_: object) -> None:
            nonlocal calls
            calls += 1

        for layer in quantized_layers(model).values():
            layer.register_forward_pre_hook(count)
        train(model, RANDOM.model_copy(update={"gradient_checkpointing": checkpointing}))
        assert not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
        return weights_of(model), calls

    (plain, passes), (recomputed, more) = run(False), run(True)
    assert all(torch.equal(weight, recomputed[name]) for name, weight in plain.items())
    assert more == 2 * passes


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_dropout_is_the_settings_while_training_and_the_checkpoints_afterwards(share: float) -> None:
    model = make_calibrated(tiny_bert())
    layers = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    seen: set[float] = set()
    settings = SHORT.model_copy(update={"dropout": share})
    train(model, settings, progress=lambda *_: seen.update(layer.p for layer in layers))
    assert seen == {share}
    assert {layer.p for layer in layers} == {0.1}


def test_dropout_changes_what_is_learnt() -> None:
    with_noise, without = make_calibrated(tiny_bert()), make_calibrated(tiny_bert())
    train(with_noise, RANDOM)
    train(without)
    assert not torch.equal(with_noise.get_parameter("classifier.weight"), without.get_parameter("classifier.weight"))


def test_progress_and_state_afterwards() -> None:
    model = make_calibrated(tiny_bert())
    seen: list[tuple[int, int, float | None]] = []
    done = train(model, progress=lambda step, steps, loss: seen.append((step, steps, loss)))
    losses = [loss for _, _, loss in seen]
    assert [(step, steps) for step, steps, _ in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert (done.settings, done.steps, done.first_loss, done.last_loss) == (SHORT, 4, losses[0], losses[-1])
    assert not any(module.training for module in model.modules())
    assert model.device == torch.device("cpu")
    assert all(quantizer.enabled for _, quantizer in named_quantizers(model))


@family
def test_a_model_without_ranges_is_refused(make: Maker) -> None:
    model = make()
    wrap(model)
    before = weights_of(model)
    message = refuse(RangeError, lambda: train(model))
    names = [name for name, each in named_quantizers(model) if each.spec.range_source == "calibrated"]
    count = FACTS[model.config.model_type].measured
    assert message.startswith(f"{count} quantizers have no range ({names[0]}")
    assert message.endswith("): calibrate the model before training it")
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_a_float_model_is_refused() -> None:
    assert refuse(CheckpointError, lambda: train(tiny_bert())) == (
        "the model is not quantized: qdq.wrap it, or load a folder that qdq calibrate wrote"
    )


def test_the_trainer_refuses_the_same(tmp_path: Any) -> None:
    model = tiny_bert()
    wrap(model)
    arguments = TrainingArguments(output_dir=str(tmp_path), report_to=[])
    trainer = QATTrainer(model=model, args=arguments, train_dataset=ROWS, data_collator=Collator(pad_token_id=0))
    assert "quantizers have no range" in refuse(RangeError, lambda: trainer.train())


def test_a_weight_that_is_not_a_number_is_named_before_the_first_step() -> None:
    model = make_calibrated(tiny_bert())
    with torch.no_grad():
        model.get_parameter("classifier.weight")[0, 0] = float("nan")
    seen: list[int] = []
    message = refuse(RangeError, lambda: train(model, progress=lambda step, steps, loss: seen.append(step)))
    assert message == (
        "weight 'classifier.weight' holds values that are not finite before the first step: "
        "the checkpoint is broken, take the one it was made from"
    )
    assert seen == []


@family
def test_a_rate_that_diverges_stops_with_the_step(make: Maker) -> None:
    model = make_calibrated(make())
    seen: list[int] = []
    settings = FinetuneSettings(max_steps=9, batch_size=8, learning_rate=1e38, warmup=0, held_out=0)
    message = refuse(RangeError, lambda: train(model, settings, progress=lambda step, steps, loss: seen.append(step)))
    assert message == f"the loss is nan at step {len(seen) + 1}: lower --set finetune.learning_rate"
    assert 1 <= len(seen) < 9


def test_a_rate_that_diverges_at_the_last_step_is_seen_in_the_weights() -> None:
    model = make_calibrated(tiny_bert())
    settings = FinetuneSettings(max_steps=1, batch_size=8, learning_rate=1e39, warmup=0, held_out=0)
    assert "amax must be finite" in refuse(RangeError, lambda: train(model, settings))
