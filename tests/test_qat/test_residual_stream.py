"""The residual stream in other units: the same bits in float, in every family, and back."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from qat.families import find_family
from qat.huggingface import unwrap, wrap
from qat.quantizer import disable_quantizers
from qat.residual_stream import Gain, nearest_power, rescale_stream, scale_inputs, scale_outputs
from tests.calibrated import make_calibrated, tiny_batches
from tests.tiny import TINY_MODELS, tiny_bert


def grouped_albert() -> PreTrainedModel:
    """Two groups of two layers each, run twice."""
    torch.manual_seed(0)
    config = AlbertConfig(
        vocab_size=195, embedding_size=16, hidden_size=32, num_attention_heads=4, intermediate_size=64,
        num_hidden_layers=4, num_hidden_groups=2, inner_group_num=2, max_position_embeddings=64,
    )  # fmt: skip
    model: PreTrainedModel = AlbertForSequenceClassification(config)
    model.eval()
    return model


FAMILIES = {**TINY_MODELS, "grouped albert": grouped_albert}
family = pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)
Make = Callable[[], PreTrainedModel]


def powers(width: int, seed: int) -> Tensor:
    return torch.exp2(torch.randint(-4, 5, (width,), generator=torch.Generator().manual_seed(seed)).float())


def rescale_all(model: PreTrainedModel) -> None:
    for seed, tensor in enumerate(find_family(model.config.model_type).stream_tensors(model)):
        rescale_stream(model, tensor, powers(model.config.hidden_size, seed))


def answer(model: PreTrainedModel) -> Tensor:
    with torch.no_grad(), disable_quantizers(model):
        logits: Tensor = model(**{name: x for name, x in tiny_batches(8)[0].items() if name != "labels"}).logits
    return logits


@family
def test_other_units_change_no_bit_of_the_answers_and_go_back_to_the_same_weights(make: Make) -> None:
    model = make()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    wrap(model)
    expected = answer(model)
    rescale_all(model)
    changed = [name for name, x in model.state_dict().items() if name in before and not torch.equal(x, before[name])]
    assert len(changed) >= 8
    assert torch.equal(answer(model), expected)
    unwrap(model)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], x) for name, x in before.items())


@family
def test_every_tensor_of_the_stream_can_be_rescaled_by_itself(make: Make) -> None:
    model = make()
    wrap(model)
    expected = answer(model)
    tensors = find_family(model.config.model_type).stream_tensors(model)
    for tensor in tensors:
        rescale_stream(model, tensor, powers(model.config.hidden_size, 1))
        assert torch.equal(answer(model), expected), tensor
    gains = {path for tensor in tensors for path in tensor.gains}
    assert gains == {name for name, module in model.named_modules() if isinstance(module, Gain)}


def test_gains_are_saved_loaded_and_kept_by_a_cast(tmp_path: Path) -> None:
    model = make_calibrated(tiny_bert())
    rescale_all(model)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(answer(loaded), answer(model))
    half = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
    for name, module in model.named_modules():
        if isinstance(module, Gain):
            assert torch.equal(half.get_submodule(name).gain.float(), module.gain), name


def test_a_folder_without_gains_has_gains_of_one(tmp_path: Path) -> None:
    model = make_calibrated(tiny_bert())
    state = {name: x for name, x in model.state_dict().items() if not name.endswith(".gain")}
    model.save_pretrained(tmp_path, state_dict=state)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert all(bool((module.gain == 1).all()) for module in loaded.modules() if isinstance(module, Gain))
    assert torch.equal(answer(loaded), answer(model))


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_a_convolution_is_rescaled_group_by_group(groups: int) -> None:
    torch.manual_seed(0)
    layer = nn.Conv1d(8, 16, 3, groups=groups, padding=1)
    x, factor = torch.randn(2, 8, 5), powers(8, 0)
    expected = layer(x)
    with torch.no_grad():
        scale_inputs(layer, factor)
    assert torch.equal(layer(x / factor[:, None]), expected)
    twice = powers(16, 1)
    with torch.no_grad():
        scale_outputs(layer, twice)
    assert torch.equal(layer(x / factor[:, None]), expected * twice[:, None])


def test_a_factor_is_rounded_on_a_scale_of_octaves() -> None:
    assert nearest_power(torch.tensor([1.41, 1.42, 6.0, 0.25])).tolist() == [1.0, 2.0, 8.0, 0.25]


@pytest.mark.parametrize("scale", [scale_inputs, scale_outputs])
def test_a_layer_nobody_can_rescale_is_named(scale: Callable[[nn.Module, Tensor], None]) -> None:
    with pytest.raises(TypeError, match=r"^no (inputs|outputs) to scale in a GELU$"):
        scale(nn.GELU(), torch.ones(1))
