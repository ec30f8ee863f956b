"""A decoder's two graphs: one reads a prompt, the other says one token more and is given what was kept before.

Their inputs and outputs are named as ONNX decoders name them: ``past_key_values.0.key`` goes in, ``present.0.key``
comes out, ``(batch, heads, tokens, head size)``. What is kept are keys and values before their quantizers, so every
step rounds the same values that one pass over all tokens would.
"""

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from export.onnx_export import AXES, GraphInput, example_shape, free_axes, trace_module
from qat.families import longest_row

STEP_FILE = "model_with_past.onnx"
PAST, PRESENT = "past_key_values.", "present."
STEP_INPUTS = ("input_ids", "attention_mask", "position_ids")
_KEPT = ("key", "value")
_EXAMPLE_PAST = 5


def keeps_past(model: PreTrainedModel) -> bool:
    """Whether a model generates with keys and values it keeps."""
    return bool(getattr(model.config, "is_decoder", False)) and model.can_generate()


def list_kept(layers: int) -> list[str]:
    """What every layer keeps, in order.

    >>> list_kept(1)
    ['0.key', '0.value']
    """
    return [f"{layer}.{name}" for layer in range(layers) for name in _KEPT]


class PromptPart(nn.Module):
    """The model over whole rows, answering what it keeps as well."""

    def __init__(self, model: PreTrainedModel, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self.answers = _name_answers(model, outputs)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The outputs, and every layer's keys and values; ``tensors`` in the order of ``inputs``."""
        found = self.model(**dict(zip(self.inputs, tensors, strict=True)), use_cache=True, return_dict=True)
        return (*(found[name] for name in self.outputs), *_flatten(found["past_key_values"]))


class StepPart(nn.Module):
    """The model over one token a row, given what it kept of those before."""

    def __init__(self, model: PreTrainedModel, outputs: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.inputs = (*STEP_INPUTS, *(f"{PAST}{kept}" for kept in list_kept(model.config.num_hidden_layers)))
        self.outputs = tuple(outputs)
        self.answers = _name_answers(model, outputs)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The outputs, and every layer's keys and values, the new ones too; ``tensors`` in the order of ``inputs``."""
        own, kept = tensors[: len(STEP_INPUTS)], tensors[len(STEP_INPUTS) :]
        cache = DynamicCache(list(zip(kept[::2], kept[1::2], strict=True)))
        given: dict[str, Any] = dict(zip(STEP_INPUTS, own, strict=True))
        found = self.model(**given, past_key_values=cache, use_cache=True, return_dict=True)
        return (*(found[name] for name in self.outputs), *_flatten(found["past_key_values"]))


def _flatten(cache: Any) -> list[Tensor]:
    return [x for layer in cache.layers for x in (layer.keys, layer.values)]


def trace_prompt(model: PreTrainedModel, *, inputs: Sequence[str], outputs: Sequence[str]) -> ir.Model:
    """The graph that reads prompts: integer ``inputs`` of axes ``batch`` and ``sequence``, padded behind.

    Args:
        model: on the CPU, calibrated, or with its quantizers off for the float twin.
        inputs: the names of its inputs.
        outputs: the fields of its output to keep, in front of what it keeps for the steps.
    """
    longest = longest_row(model.config)
    example = torch.ones(example_shape(AXES, longest), dtype=torch.long)
    given = [GraphInput(name=name, example=example.clone(), axes=AXES) for name in inputs]
    part = PromptPart(model, inputs, outputs)
    return trace_module(part, model, given, part.answers, free_axes(longest))


def trace_step(model: PreTrainedModel, *, outputs: Sequence[str]) -> ir.Model:
    """The graph that reads one token a row after ``past`` ones; ``attention_mask`` is over all ``past + 1``.

    ``position_ids`` says which token of its row it is: prompts of several lengths leave padding between.

    Args:
        model: as of ``trace_prompt``.
        outputs: as of ``trace_prompt``.
    """
    config = model.config
    longest, heads = longest_row(config), int(config.num_attention_heads)
    past = torch.export.Dim("past", min=1, max=longest - 1)
    free = {**free_axes(longest), "past": past, "past + 1": past + 1}
    batch, size = 2, int(config.hidden_size) // heads
    ones = torch.ones(batch, _EXAMPLE_PAST + 1, dtype=torch.long)
    given = [
        GraphInput(name="input_ids", example=ones[:, :1].clone(), axes=("batch", 1)),
        GraphInput(name="attention_mask", example=ones, axes=("batch", "past + 1")),
        GraphInput(name="position_ids", example=ones[:, :1] * _EXAMPLE_PAST, axes=("batch", 1)),
        *(
            GraphInput(
                name=f"{PAST}{kept}",
                example=torch.zeros(batch, heads, _EXAMPLE_PAST, size),
                axes=("batch", heads, "past", size),
            )
            for kept in list_kept(config.num_hidden_layers)
        ),
    ]
    part = StepPart(model, outputs)
    return trace_module(part, model, given, part.answers, free)


def _name_answers(model: PreTrainedModel, outputs: Sequence[str]) -> list[str]:
    return [*outputs, *(f"{PRESENT}{kept}" for kept in list_kept(model.config.num_hidden_layers))]
