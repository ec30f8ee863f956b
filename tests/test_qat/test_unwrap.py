"""Unwrapping gives the float model back, with what training made of its weights and nothing else of ours."""

import pytest
import torch

from qat.errors import CheckpointError, RecipeError
from qat.huggingface import unwrap, wrap
from qat.wrap import is_wrapped
from tests.test_qat.wrapped import (
    BERT_LAYER,
    FAMILIES,
    FamilyName,
    amax_of,
    make_batch,
    make_eager,
    make_float,
    make_wrapped,
    same_answers,
)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_unwrapping_gives_the_float_model_back(family: FamilyName, implementation: str) -> None:
    model, plain = make_float(family), make_float(family)
    for each in (model, plain):
        each.set_attn_implementation(implementation)
    wrap(model)
    assert is_wrapped(model)
    unwrap(model)
    assert not is_wrapped(model)
    assert [type(each) for each in model.modules()] == [type(each) for each in plain.modules()]
    assert vars(model).keys() - {"is_quantized"} == vars(plain).keys()
    assert model._no_split_modules == plain._no_split_modules
    assert model.supports_gradient_checkpointing == plain.supports_gradient_checkpointing
    assert model._keep_in_fp32_modules_strict == plain._keep_in_fp32_modules_strict
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert model.config.to_dict() == plain.config.to_dict()
    with torch.no_grad():
        assert torch.equal(model(**make_batch()).logits, plain(**make_batch()).logits)
    assert model.half().dtype == torch.float16


def test_unwrapping_keeps_what_training_changed() -> None:
    model, plain = make_wrapped("bert"), make_eager("bert")
    with torch.no_grad():
        for each in (model, plain):
            each.get_parameter(f"{BERT_LAYER}.output.dense.weight").mul_(2.0)
    unwrap(model)
    model.set_attn_implementation("eager")
    assert same_answers(model, plain)


def test_unwrapping_allows_another_recipe() -> None:
    model = make_wrapped("bert")
    with pytest.raises(RecipeError) as caught:
        wrap(model, "linear")
    assert str(caught.value) == "the model is quantized already: qdq.unwrap it first to use another recipe"
    wrap(unwrap(model), "linear")
    assert amax_of(model).keys() == amax_of(make_wrapped("bert", "linear")).keys()


def test_unwrapping_a_float_model() -> None:
    with pytest.raises(CheckpointError, match=r"^the model is not quantized: qdq\.wrap it, or load a folder"):
        unwrap(make_float("bert"))
