"""Chunked feed-forward blocks: found ranges and numbers are those of the whole block, and the chunks come back."""

import copy

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from calibration.calibrate import calibrate
from qat.chunking import whole_feed_forward
from qat.families import find_family
from qat.huggingface import wrap
from qat.quantizer import disable_quantizers, named_quantizers
from tests.calibrated import tiny_batches
from tests.test_qat.wrapped import FAMILIES, FamilyName, give_ranges, make_batch, make_eager, make_float, same_answers


def in_chunks(model: PreTrainedModel, size: int) -> PreTrainedModel:
    """``model``, its layers cutting their tokens into pieces of ``size``."""
    for module in cutting(model):
        module.chunk_size_feed_forward = size  # type: ignore[assignment]
    return model


def cutting(model: PreTrainedModel) -> list[nn.Module]:
    """What cuts tokens into pieces: a family's layers, or a part of each."""
    layers = [layer for _, layer in find_family(model.config.model_type).layers(model)]
    parts = [each for layer in layers for each in layer.modules() if hasattr(each, "chunk_size_feed_forward")]
    return parts or layers


def sizes_of(model: PreTrainedModel) -> set[object]:
    return {module.chunk_size_feed_forward for module in cutting(model)}


@pytest.mark.parametrize("family", FAMILIES)
def test_inside_the_block_nothing_is_cut(family: FamilyName) -> None:
    plain = make_float(family)
    model = in_chunks(copy.deepcopy(plain), 4)  # eleven tokens: upstream refuses to cut them
    with torch.no_grad(), whole_feed_forward(model):
        assert torch.equal(model(**make_batch()).logits, plain(**make_batch()).logits)
    assert sizes_of(model) == {4}


@pytest.mark.parametrize("family", FAMILIES)
def test_ranges_are_found_on_whole_blocks(family: FamilyName) -> None:
    ranges = []
    for size in (0, 3):
        model = in_chunks(make_float(family), size)
        wrap(model)
        calibrate(model, tiny_batches())
        ranges.append({name: each.amax.tolist() for name, each in named_quantizers(model)})
        assert sizes_of(model) == {size}
    assert ranges[0] == ranges[1]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [1, 11])
def test_in_chunks_it_is_the_float_model_when_switched_off(family: FamilyName, size: int) -> None:
    model, plain = (in_chunks(make_eager(family), size) for _ in range(2))
    wrap(model)
    give_ranges(model)
    with disable_quantizers(model):
        assert same_answers(model, plain)
