"""The names that variables of TensorFlow 1 checkpoints have in transformers' PyTorch models, family by family.

The originals: google-research/bert, google-research/albert and yitu-opensource/ConvBert.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Layout = Literal["same", "transposed", "depthwise", "pointwise", "column"]
"""What happens to an array: nothing; its two axes change places; ``(kernel, channels, 1)`` becomes ``(channels, 1,
kernel)``; ``(1, in, out)`` becomes ``(out, in, 1)``; a vector becomes a column."""

_NOT_WEIGHTS = re.compile(
    r"(^|/)(adam_[mv]|lamb_[mv]|Adam(_1)?|LAMB|AdamWeightDecayOptimizer(_1)?|Momentum|ExponentialMovingAverage)(/|$)"
    r"|^(global_step|beta[12]_power|loss_scale|good_steps|signal_early_stopping.*)$"
)
Rules = Sequence[tuple[str, str]]

_ENDS: Rules = (
    (r"/gamma$", ".weight"),
    (r"/beta$", ".bias"),
    (r"/kernel$", ".weight"),
    (r"/bias$", ".bias"),
    (r"/output_weights$", ".weight"),
    (r"/output_bias$", ".bias"),
    (r"_embeddings$", "_embeddings.weight"),
)
_FINE_TUNED: Rules = (
    (r"^output_weights$", "classifier.weight"),
    (r"^output_bias$", "classifier.bias"),
    (r"^cls/squad/", "qa_outputs/"),
)
_RULES: Mapping[str, Rules] = {
    "bert": (*_FINE_TUNED, *_ENDS, (r"/layer_(\d+)/", r".layer.\1.")),
    "albert": (
        *_FINE_TUNED,
        (r"^bert/", "albert/"),
        (r"/transformer/group_(\d+)/inner_group_(\d+)/", r"/albert_layer_groups/\1/albert_layers/\2/"),
        (r"(/\d+)/LayerNorm_1/", r"\1/full_layer_layer_norm/"),
        (r"(/\d+)/LayerNorm/", r"\1/attention/LayerNorm/"),
        (r"/attention_1/self/", "/attention/"),
        (r"/attention_1/output/dense/", "/attention/dense/"),
        (r"/ffn_1/intermediate/dense/", "/ffn/"),
        (r"/ffn_1/intermediate/output/dense/", "/ffn_output/"),
        (r"/pooler/dense/", "/pooler/"),
        (r"^cls/predictions/transform/", "predictions/"),
        (r"^cls/predictions/", "predictions/"),
        (r"^cls/seq_relationship/", "sop_classifier/classifier/"),
        *_ENDS,
    ),
    "convbert": (
        (r"^electra/", "convbert/"),
        (r"/conv_attn_key/(depth|point)wise_kernel$", r"/key_conv_attn_layer/\1wise.weight"),
        (r"/conv_attn_key/", "/key_conv_attn_layer/"),
        (r"/conv_attn_kernel/", "/conv_kernel_layer/"),
        (r"/conv_attn_point/", "/conv_out_layer/"),
        (r"/g_dense/", "/dense/"),
        *_ENDS,
        (r"/layer_(\d+)/", r".layer.\1."),
    ),
}
_TRAINING_HEADS = re.compile(r"^(generator|generator_predictions|discriminator_predictions)/")
"""Of a pre-trained ConvBERT, which transformers has no model for."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an array goes: a parameter's name, and how its axes change."""

    name: str
    layout: Layout


def is_weight(name: str) -> bool:
    """Whether a variable belongs to the model, and not to an optimizer, a step count or a head for pre-training only.

    >>> [is_weight(name) for name in ("bert/pooler/dense/bias", "bert/pooler/dense/bias/adam_v", "global_step")]
    [True, False, False]
    """
    return _NOT_WEIGHTS.search(name) is None and _TRAINING_HEADS.match(name) is None


def find_family_of(names: Sequence[str]) -> str:
    """The family whose variables these are.

    >>> find_family_of(["bert/encoder/layer_0/output/dense/kernel"])
    'bert'
    """
    if any("/conv_attn_key/" in name for name in names):
        return "convbert"
    return "albert" if any("/inner_group_" in name for name in names) else "bert"


def place_of(family: str, name: str) -> Place:
    """Where a variable of a family goes; its name is made of what rules there are, whether or not there is such a one.

    >>> place_of("albert", "module/bert/encoder/transformer/group_0/inner_group_0/attention_1/self/query/kernel").name
    'albert.encoder.albert_layer_groups.0.albert_layers.0.attention.query.weight'
    """
    found = name.removeprefix("module/")
    for pattern, to in _RULES[family]:
        found = re.sub(pattern, to, found)
    return Place(found.replace("/", "."), _layout_of(name))


def _layout_of(name: str) -> Layout:
    end = name.rsplit("/", 2)[1:]
    match end:
        case ["conv_attn_key", "depthwise_kernel"]:
            return "depthwise"
        case ["conv_attn_key", "pointwise_kernel"]:
            return "pointwise"
        case ["conv_attn_key", "bias"]:
            return "column"
        case ["g_dense", "kernel"]:
            return "same"
        case [_, "kernel"]:
            return "transposed"
    return "same"


def find_head(family: str, names: Sequence[str]) -> str:
    """The transformers class that holds all of these variables.

    >>> find_head("bert", ["bert/pooler/dense/bias", "output_weights", "output_bias"])
    'BertForSequenceClassification'
    """
    stem = {"bert": "Bert", "albert": "Albert", "convbert": "ConvBert"}[family]
    bare = {name.removeprefix("module/") for name in names}
    if "output_weights" in bare:
        return f"{stem}ForSequenceClassification"
    kinds = {name.split("/")[1] for name in bare if name.startswith("cls/")}
    if "squad" in kinds:
        return f"{stem}ForQuestionAnswering"
    if "seq_relationship" in kinds:
        return f"{stem}ForPreTraining"
    return f"{stem}ForMaskedLM" if "predictions" in kinds else f"{stem}Model"
