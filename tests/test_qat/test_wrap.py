"""Wrapping takes a model over without changing what it computes, says what it did, and can be undone."""

import copy
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from transformers import RobertaConfig, RobertaForCausalLM, XLMConfig, XLMModel

from qat.errors import CheckpointError, RecipeError
from qat.huggingface import wrap
from qat.quantizer import disable_quantizers, named_quantizers
from qat.recipe import PRODUCTS, Recipe, Role, Rule, shipped_recipes
from qat.wrap import OUTSIDE
from tests.test_qat.wrapped import (
    ALBERT_LAYER,
    BERT_LAYER,
    FACTS,
    FAMILIES,
    REGISTRY_FAMILIES,
    FamilyName,
    amax_of,
    gradients,
    make_batch,
    make_eager,
    make_float,
    make_wrapped,
    run,
    same_answers,
    tensors_of,
)
from tests.tolerances import SDPA


def make_recipe(roles: Iterable[Role], *more: Rule) -> Recipe:
    return Recipe(name="mine", rules=(Rule(layers="*", roles=tuple(roles), quantize=True), *more))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("recipe", shipped_recipes())
@pytest.mark.parametrize("ranges", [False, True])
def test_switched_off_it_is_the_eager_model(family: FamilyName, recipe: str, ranges: bool) -> None:
    model = make_wrapped(family, recipe) if ranges else make_float(family)
    if not ranges:
        wrap(model, recipe)
    with disable_quantizers(model):
        assert same_answers(model, make_eager(family))


@pytest.mark.parametrize("family", REGISTRY_FAMILIES)
def test_switched_off_it_is_the_sdpa_model_but_for_rounding(family: FamilyName) -> None:
    model, plain = make_wrapped(family), make_float(family)
    assert plain.config._attn_implementation == "sdpa"
    with disable_quantizers(model), torch.no_grad():
        apart = model(**make_batch()).logits - plain(**make_batch()).logits
    assert apart.abs().max() <= SDPA.value


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_and_attentions_are_handed_out(family: FamilyName) -> None:
    output = run(make_wrapped(family))
    assert output.hidden_states is not None
    assert output.attentions is not None
    depth = make_float(family).config.num_hidden_layers
    assert (len(output.hidden_states), len(output.attentions)) == (depth + 1, depth)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("recipe", shipped_recipes())
def test_every_quantized_weight_learns(family: FamilyName, recipe: str) -> None:
    model = make_wrapped(family, recipe)
    found = gradients(model.train())
    weights = [
        name.replace("weight_quantizer", "weight") for name, _ in named_quantizers(model) if "weight_quantizer" in name
    ]
    assert len(weights) == FACTS[family].weights
    assert [name for name in weights if not found[name].any()] == []
    assert all(gradient.isfinite().all() for gradient in found.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_report_names_what_lies_outside(family: FamilyName) -> None:
    model = make_float(family)
    report = wrap(model)
    outside = {row.name: row for row in report.rows if row.reason == OUTSIDE}
    assert {name for name, row in outside.items() if row.kind == "Linear"} == FACTS[family].outer
    assert f"{model.base_model_prefix}.embeddings.word_embeddings" in outside
    assert not any(row.quantized for row in outside.values())


def test_the_report_gives_a_reason_for_everything_inside() -> None:
    report = wrap(make_float("bert"))
    rows = {(row.name, row.kind): row for row in report.rows if row.reason != OUTSIDE}
    assert len(rows) == len([row for row in report.rows if row.reason != OUTSIDE]) == 2 * 20
    dense = f"{BERT_LAYER}.output.dense"
    assert (rows[dense, "weight"].quantized, rows[dense, "weight"].reason) == (True, "rule 1 of recipe 'tensorrt'")
    assert (rows[dense, "add_local"].quantized, rows[dense, "add_local"].reason) == (
        False,
        "no rule of recipe 'tensorrt' asks for it",
    )
    assert report.quantized == sum(row.quantized for row in report.rows) == 2 * 16


def test_the_product_of_a_float_weight_stays_float() -> None:
    model = make_float("bert")
    off = Rule(layers="*.intermediate.dense", roles=("weight",), quantize=False)
    report = wrap(model, make_recipe(("weight", "input", "preactivation", "product"), off))
    products = {row.name: row for row in report.rows if row.kind in PRODUCTS and row.name.startswith(BERT_LAYER)}
    assert {name: row.quantized for name, row in products.items()} == {
        f"{BERT_LAYER}.attention.output.dense": True,
        f"{BERT_LAYER}.intermediate.dense": False,
        f"{BERT_LAYER}.output.dense": True,
    }
    assert products[f"{BERT_LAYER}.intermediate.dense"].reason == "its weight is float: no integer GEMM gives it"


def test_the_last_rule_switches_a_layer_off() -> None:
    model = make_float("bert")
    off = Rule(layers="encoder.layer.1.*", roles=("weight", "input", "residual", "attention"), quantize=False)
    report = wrap(model, make_recipe(("weight", "input", "residual", "attention"), off))
    assert all(name.startswith(BERT_LAYER) for name, _ in named_quantizers(model))
    reasons = {row.reason for row in report.rows if row.name.startswith("bert.encoder.layer.1.")}
    assert reasons == {"rule 2 of recipe 'mine'", "no rule of recipe 'mine' asks for it"}


@pytest.mark.parametrize(
    ("family", "rules"),
    [
        ("albert", make_recipe(["residual"])),
        ("bert", make_recipe(["weight"], Rule(layers="encoder.layer.7.*", roles=("weight",), quantize=False))),
    ],
)
def test_a_refused_recipe_leaves_the_model_as_it_was(family: FamilyName, rules: Recipe) -> None:
    model, plain = make_float(family), make_float(family)
    with pytest.raises(RecipeError):
        wrap(model, rules)
    assert [type(each) for each in model.modules()] == [type(each) for each in plain.modules()]
    assert vars(model).keys() == vars(plain).keys()
    assert model.config.to_dict() == plain.config.to_dict()
    with torch.no_grad():
        assert torch.equal(model(**make_batch()).logits, plain(**make_batch()).logits)


def test_albert_refuses_residuals_alone() -> None:
    with pytest.raises(RecipeError) as caught:
        wrap(make_float("albert"), make_recipe(["residual"]))
    assert str(caught.value) == (
        f"recipe 'mine' quantizes {ALBERT_LAYER}.attention (residual) but not the other readers of the same tensor, "
        "and this family has no place for that: quantize the inputs that read it as well, or leave this one float"
    )


def test_an_unknown_family_is_named() -> None:
    model = XLMModel(XLMConfig(vocab_size=10, emb_dim=8, n_layers=1, n_heads=2))
    with pytest.raises(CheckpointError) as caught:
        wrap(model)
    assert str(caught.value) == (
        "model family 'xlm' is not supported: known: albert, bert, convbert, distilbert, electra, roberta, squeezebert"
    )


def test_cross_attention_is_for_families_that_decode() -> None:
    small: Any = {"num_hidden_layers": 1, "hidden_size": 12, "is_decoder": True, "add_cross_attention": True}
    with pytest.raises(CheckpointError) as caught:
        wrap(RobertaForCausalLM(RobertaConfig(**small)))
    assert str(caught.value) == (
        "a roberta with cross-attention is not supported (add_cross_attention is true in its config.json): quantize an "
        "encoder, or a decoder without it"
    )


def test_ranges_lie_where_the_model_lies() -> None:
    model = make_float("bert").to(torch.device("meta"))  # type: ignore[arg-type]
    wrap(model)
    assert {quantizer.amax.device.type for _, quantizer in named_quantizers(model)} == {"meta"}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_copy_is_a_model_of_its_own(family: FamilyName) -> None:
    model = make_wrapped(family)
    twin = copy.deepcopy(model)
    assert same_answers(model, twin)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    for _, quantizer in named_quantizers(twin):
        quantizer.clear_range()
    assert same_answers(model, make_wrapped(family))
    assert {name: amax.tolist() for name, amax in amax_of(model).items()} == {
        name: amax.tolist() for name, amax in amax_of(make_wrapped(family)).items()
    }


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in ("roberta", "electra")])  # as BERT
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_it_compiles_without_a_break(family: FamilyName, backend: str) -> None:
    model = make_wrapped(family)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(**make_batch()).logits, model(**make_batch()).logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_sharding_finds_the_layers_by_name(family: FamilyName) -> None:
    model = make_wrapped(family)
    expected = FACTS[family].whole
    assert {type(module).__name__ for module in model.modules()} >= expected
    for each in (model, model.base_model):
        assert each._no_split_modules == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_cast_leaves_the_ranges_alone(dtype: torch.dtype) -> None:
    model = make_wrapped("bert")
    before = amax_of(model)
    model.to(dtype)  # type: ignore[arg-type]
    assert all(torch.equal(amax, before[name]) for name, amax in amax_of(model).items())
    assert {amax.dtype for amax in amax_of(model).values()} == {torch.float32}
    assert tensors_of(run(model))[1].dtype == dtype
