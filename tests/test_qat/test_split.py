"""Splitting outlier neurons: the same function, a smaller weight range, and nothing where there is no outlier."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from qat.families import find_family
from qat.split import ALIGNMENT, count_copies, split_outlier_neurons
from tests.tiny import tiny_albert, tiny_bert, tiny_convbert
from tests.tolerances import SPLIT

OUTLIER = 40.0


def with_outlier(model: PreTrainedModel) -> PreTrainedModel:
    """The model with one outgoing weight of one neuron in each block far above the others."""
    family = find_family(model.config.model_type)
    assert family.feed_forward is not None
    for name, _ in family.layers(model):
        with torch.no_grad():
            model.get_parameter(f"{family.feed_forward(name)[1]}.weight")[3, 5] = OUTLIER
    model.eval()
    return model


def answer(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(torch.arange(1, 13).reshape(2, 6)).logits
    return logits


@pytest.mark.parametrize("make", [tiny_bert, tiny_albert])
def test_the_function_stays_and_the_range_shrinks(make: Callable[[], PreTrainedModel]) -> None:
    model = with_outlier(make())
    before, width = answer(model), model.config.intermediate_size
    blocks = split_outlier_neurons(model)
    assert model.config.intermediate_size == width + ALIGNMENT
    assert {block.before for block in blocks} == {OUTLIER}
    assert all(block.after <= OUTLIER / (ALIGNMENT // 2) for block in blocks)
    assert torch.allclose(answer(model), before, rtol=SPLIT.value, atol=SPLIT.value)


def test_a_split_model_is_an_ordinary_checkpoint(tmp_path: Path) -> None:
    model = with_outlier(tiny_bert())
    split_outlier_neurons(model)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(answer(loaded), answer(model))


def test_a_model_without_outliers_is_left_alone() -> None:
    model = tiny_bert().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert split_outlier_neurons(model) == ()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("num_groups", [1, 2])
def test_a_family_whose_blocks_may_be_grouped_is_left_alone(num_groups: int) -> None:
    model = tiny_convbert(num_groups=num_groups)
    with torch.no_grad():
        model.get_parameter("convbert.encoder.layer.0.output.dense.weight")[0, 3, ...] = OUTLIER
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert split_outlier_neurons(model) == ()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@given(peaks=st.lists(st.floats(0.1, 50), min_size=1, max_size=4), extra=st.integers(0, 5))
def test_no_other_spending_of_the_copies_gives_a_smaller_range(peaks: list[float], extra: int) -> None:
    found = count_copies(torch.tensor(peaks), extra)
    assert int(found.sum()) == len(peaks) + extra
    spendings = itertools.product(range(1, extra + 2), repeat=len(peaks))
    best = min(
        max(float(torch.tensor(peak) / count) for peak, count in zip(peaks, counts, strict=True))
        for counts in spendings
        if sum(counts) == len(peaks) + extra
    )
    assert float((torch.tensor(peaks) / found).max()) == best
