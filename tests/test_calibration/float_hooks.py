"""What passes through the float modules whose tensors get ranges, seen by hooks that know nothing of quantizers."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from tests.tiny import (
    tiny_albert,
    tiny_bert,
    tiny_convbert,
    tiny_distilbert,
    tiny_electra,
    tiny_roberta,
    tiny_squeezebert,
)

Batches = list[dict[str, Tensor]]

_ATTENTION = {
    "attention.hidden_quantizer": ("{attention}.query", "input"),
    **{f"{{attention}}.{part}_quantizer": (f"{{attention}}.{part}", "output") for part in ("query", "key", "value")},
}
_BERT = _ATTENTION | {
    "attention.output.dense.input_quantizer": ("attention.output.dense", "input"),
    "ffn_quantizer": ("intermediate.dense", "input"),
    "intermediate.dense.product_quantizer": ("intermediate.dense", "product"),
    "output.dense.input_quantizer": ("output.dense", "input"),
}
_ALBERT = _ATTENTION | {
    "attention.dense.input_quantizer": ("attention.dense", "input"),
    "attention.ffn_quantizer": ("ffn", "input"),
    "ffn.product_quantizer": ("ffn", "product"),
    "ffn_output.input_quantizer": ("ffn_output", "input"),
}
_CONVBERT = {
    "attention.hidden_quantizer": ("attention", "input"),
    **{
        f"attention.self.{part}.output_quantizer": (f"attention.self.{part}", "output")
        for part in ("query", "key", "value")
    },
    **{
        f"attention.self.{part}.input_quantizer": (f"attention.self.{part}", "input")
        for part in ("key_conv_attn_layer.pointwise", "conv_kernel_layer")
    },
    "attention.output.dense.input_quantizer": ("attention.output.dense", "input"),
    "ffn_quantizer": ("intermediate.dense", "input"),
    "intermediate.dense.product_quantizer": ("intermediate.dense", "product"),
    "output.dense.input_quantizer": ("output.dense", "input"),
}
_DISTILBERT = {
    "hidden_quantizer": ("attention.q_lin", "input"),
    **{f"attention.{part}_quantizer": (f"attention.{part[0]}_lin", "output") for part in ("query", "key", "value")},
    "attention.out_lin.input_quantizer": ("attention.out_lin", "input"),
    "sa_layer_norm.ffn_quantizer": ("ffn", "input"),
    "ffn.lin1.product_quantizer": ("ffn.lin1", "product"),
    "ffn.lin2.input_quantizer": ("ffn.lin2", "input"),
}
_SQUEEZEBERT = {
    "hidden_quantizer": ("attention", "input"),
    "attention.matmul_qk.left_quantizer": ("attention.query", "output"),
    "attention.matmul_qk.right_quantizer": ("attention.key", "output"),
    "attention.matmul_qkv.right_quantizer": ("attention.value", "output"),
    "post_attention.conv1d.input_quantizer": ("post_attention.conv1d", "input"),
    "post_attention.ffn_quantizer": ("intermediate.conv1d", "input"),
    "intermediate.conv1d.product_quantizer": ("intermediate.conv1d", "product"),
    "output.conv1d.input_quantizer": ("output.conv1d", "input"),
}
"""For each range that is found from data: the float module it belongs to, and which side of it, or its product."""

PLANS = {
    tiny_bert: (_BERT, "attention.self", [f"bert.encoder.layer.{number}" for number in range(2)]),
    tiny_albert: (_ALBERT, "attention", ["albert.encoder.albert_layer_groups.0.albert_layers.0"]),
    tiny_convbert: (_CONVBERT, "attention.self", [f"convbert.encoder.layer.{number}" for number in range(2)]),
    tiny_squeezebert: (_SQUEEZEBERT, "attention", [f"transformer.encoder.layers.{number}" for number in range(2)]),
    tiny_roberta: (_BERT, "attention.self", [f"roberta.encoder.layer.{number}" for number in range(2)]),
    tiny_electra: (_BERT, "attention.self", [f"electra.encoder.layer.{number}" for number in range(2)]),
    tiny_distilbert: (_DISTILBERT, "attention", [f"distilbert.transformer.layer.{number}" for number in range(2)]),
}
"""Of each family: the ranges of a layer, the attention's path in it, and its layers."""


def layers_of(make: Callable[[], PreTrainedModel]) -> dict[str, dict[str, tuple[str, str]]]:
    plan, attention, layers = PLANS[make]
    written = {
        name.format(attention=attention): (module.format(attention=attention), side)
        for name, (module, side) in plan.items()
    }
    return dict.fromkeys(layers, written)


def without_bias(module: nn.Module, given: Tensor) -> Tensor:
    """What a layer answers when its bias is zero."""
    plain = copy.deepcopy(module)
    plain._forward_hooks.clear()
    nn.init.zeros_(plain.get_parameter("bias"))
    answer: Tensor = plain(given)
    return answer


def oracle_magnitudes(make: Callable[[], PreTrainedModel], batches: Batches) -> dict[str, list[NDArray[Any]]]:
    """For every range: a list over depths of magnitudes, ``(real tokens, channels)``, from hooks on the float model."""
    model = make()
    model.config._attn_implementation = "eager"
    found: dict[str, list[list[NDArray[Any]]]] = {}
    batch: dict[str, Tensor] = {}
    calls: dict[str, int] = {}

    def keep(name: str, x: Tensor) -> None:
        depth = calls[name] = calls.get(name, -1) + 1
        passes = found.setdefault(name, [])
        passes.extend([] for _ in range(depth + 1 - len(passes)))
        tokens_last = make is tiny_squeezebert or "pointwise" in name  # as convolutions have them
        rows = x.transpose(1, 2) if tokens_last else x
        passes[depth].append(np.abs(rows.numpy())[batch["attention_mask"].numpy() == 1])

    def watch(name: str, side: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        seen: dict[str, Callable[[nn.Module, Tensor, Tensor], Tensor]] = {
            "input": lambda module, given, answer: given,
            "output": lambda module, given, answer: answer,
            "product": lambda module, given, answer: without_bias(module, given),
        }
        return lambda module, given, answer: keep(name, seen[side](module, given[0], answer))

    for layer, names in layers_of(make).items():
        for name, (module, side) in names.items():
            model.get_submodule(f"{layer}.{module}").register_forward_hook(watch(f"{layer}.{name}", side))
    for batch in batches:
        calls.clear()
        with torch.no_grad():
            model(batch["input_ids"], attention_mask=batch["attention_mask"])
    return {name: [np.concatenate(each) for each in passes] for name, passes in found.items()}
