"""Tiny wrapped models whose ranges are set by hand, one batch for them, and what two models are compared by."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from qat.huggingface import mark_calibrated, wrap
from qat.layers import refresh_weight_ranges
from qat.quantizer import named_quantizers
from qat.recipe import Recipe, WeightGranularity
from tests.tiny import TINY_MODELS

FamilyName = str
TinyModel = PreTrainedModel

FAMILIES: tuple[FamilyName, ...] = tuple(TINY_MODELS)

BERT_LAYER = "bert.encoder.layer.0"
ALBERT_LAYER = "albert.encoder.albert_layer_groups.0.albert_layers.0"
CONVBERT_LAYER = "convbert.encoder.layer.0"
SQUEEZEBERT_LAYER = "transformer.encoder.layers.0"
DISTILBERT_LAYER = "distilbert.transformer.layer.0"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the tests of all families need to know of one.

    Attributes:
        layer: the path of its first encoder layer.
        runs: how often that layer runs in one pass.
        weights: how many weights the tiny model's recipes quantize.
        measured: how many activations the default recipe wants ranges for.
        attention: for each quantizer of the attention, where it sits in a layer.
        outer: the Linears outside the layers.
        whole: the classes that sharding must not cut, once wrapped.
        registry: whether its attention is a function chosen by name, so that another name would drop the quantizers.
    """

    layer: str
    runs: int
    weights: int
    measured: int
    attention: frozenset[str]
    outer: frozenset[str]
    whole: frozenset[str]
    registry: bool


_FOUR = ("query_quantizer", "key_quantizer", "value_quantizer", "probs_quantizer")
FACTS: Mapping[FamilyName, Facts] = {
    "bert": Facts(
        layer=BERT_LAYER,
        runs=1,
        weights=12,
        measured=16,
        attention=frozenset(f"attention.self.{slot}" for slot in _FOUR),
        outer=frozenset({"bert.pooler.dense", "classifier"}),
        whole=frozenset({"QuantBertLayer"}),
        registry=True,
    ),
    "albert": Facts(
        layer=ALBERT_LAYER,
        runs=3,
        weights=6,
        measured=8,
        attention=frozenset(f"attention.{slot}" for slot in _FOUR),
        outer=frozenset({"albert.pooler", "classifier", "albert.encoder.embedding_hidden_mapping_in"}),
        whole=frozenset({"QuantAlbertLayer"}),
        registry=True,
    ),
    "convbert": Facts(
        layer=CONVBERT_LAYER,
        runs=1,
        weights=18,
        measured=20,
        attention=frozenset(
            {
                *(f"attention.self.{part}.output_quantizer" for part in ("query", "key", "value")),
                "attention.self.dropout.probs_quantizer",
            }
        ),
        outer=frozenset({"convbert.embeddings_project", "classifier.dense", "classifier.out_proj"}),
        whole=frozenset({"QuantConvBertLayer"}),
        registry=False,
    ),
    "squeezebert": Facts(
        layer=SQUEEZEBERT_LAYER,
        runs=1,
        weights=12,
        measured=16,
        attention=frozenset(
            {
                *(f"attention.matmul_qk.{side}_quantizer" for side in ("left", "right")),
                "attention.matmul_qkv.right_quantizer",
                "attention.softmax.probs_quantizer",
            }
        ),
        outer=frozenset({"transformer.pooler.dense", "classifier"}),
        whole=frozenset({"QuantSqueezeBertModule"}),
        registry=False,
    ),
    "roberta": Facts(
        layer="roberta.encoder.layer.0",
        runs=1,
        weights=12,
        measured=16,
        attention=frozenset(f"attention.self.{slot}" for slot in _FOUR),
        outer=frozenset({"classifier.dense", "classifier.out_proj"}),
        whole=frozenset({"QuantRobertaLayer"}),
        registry=True,
    ),
    "electra": Facts(
        layer="electra.encoder.layer.0",
        runs=1,
        weights=12,
        measured=16,
        attention=frozenset(f"attention.self.{slot}" for slot in _FOUR),
        outer=frozenset({"electra.embeddings_project", "classifier.dense", "classifier.out_proj"}),
        whole=frozenset({"QuantElectraLayer"}),
        registry=True,
    ),
    "distilbert": Facts(
        layer=DISTILBERT_LAYER,
        runs=1,
        weights=12,
        measured=16,
        attention=frozenset(f"attention.{slot}" for slot in _FOUR),
        outer=frozenset({"pre_classifier", "classifier"}),
        whole=frozenset({"QuantTransformerBlock"}),
        registry=True,
    ),
}
REGISTRY_FAMILIES = tuple(family for family in FAMILIES if FACTS[family].registry)


def make_float(family: FamilyName) -> TinyModel:
    """The tiny float model of a family, always the same one."""
    return TINY_MODELS[family]()


def make_eager(family: FamilyName) -> TinyModel:
    """The same model with the attention ours is compared with."""
    model = make_float(family)
    model.set_attn_implementation("eager")
    return model


def make_wrapped(
    family: FamilyName, recipe: str = "tensorrt", *, weights: WeightGranularity = "per_tensor"
) -> TinyModel:
    """The same model, wrapped and with ranges."""
    model = make_float(family)
    wrap(model, Recipe.load(recipe).model_copy(update={"weights": weights}))
    return give_ranges(model)


def give_ranges(model: TinyModel, *, seed: int = 0) -> TinyModel:
    """``model`` with a range in every quantizer, each between 2 and 5 and no two alike."""
    generator = torch.Generator().manual_seed(seed)
    for _, quantizer in named_quantizers(model):
        if quantizer.spec.range_source == "calibrated":
            quantizer.set_range(2 + 3 * torch.rand(quantizer.amax.shape, generator=generator))
    refresh_weight_ranges(model)
    mark_calibrated(model)
    return model


def make_batch() -> dict[str, Tensor]:
    """Three rows of eleven tokens, two of them padded, with segments and labels."""
    generator = torch.Generator().manual_seed(1)
    mask = (torch.arange(11) < torch.tensor([[11], [7], [2]])).long()
    tokens = torch.randint(5, 150, (3, 11), generator=generator) * mask
    segments = (torch.arange(11) > 4).long() * mask
    return {
        "input_ids": tokens,
        "attention_mask": mask,
        "token_type_ids": segments,
        "labels": torch.tensor([0, 2, 1]),
    }


def run(model: TinyModel) -> SequenceClassifierOutput:
    """All that the model answers to the batch: loss, logits, hidden states, attentions."""
    with torch.no_grad():
        output: SequenceClassifierOutput = model(**make_batch(), output_hidden_states=True, output_attentions=True)
    return output


def tensors_of(output: SequenceClassifierOutput) -> list[Tensor]:
    """Every tensor of an answer, in order."""
    single = [output.loss, output.logits]
    assert output.hidden_states is not None
    assert output.attentions is not None
    return [each for each in (*single, *output.hidden_states, *output.attentions) if each is not None]


def same_answers(first: TinyModel, second: TinyModel) -> bool:
    """Whether two models answer the batch with the same bits throughout."""
    pairs = zip(tensors_of(run(first)), tensors_of(run(second)), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def gradients(model: TinyModel) -> dict[str, Tensor]:
    """The gradient of the batch's loss for every parameter; the dropout masks are always the same."""
    model.zero_grad()
    torch.manual_seed(3)
    model(**make_batch()).loss.backward()
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


def amax_of(model: TinyModel) -> dict[str, Tensor]:
    """The range of every quantizer, by path."""
    return {name: quantizer.amax.clone() for name, quantizer in named_quantizers(model)}
