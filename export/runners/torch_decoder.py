"""A torch decoder as its two parts, which are fed and answer as the graphs made of them."""

from collections.abc import Mapping
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from export.decoder_graphs import PromptPart, StepPart
from export.runners.base import AlwaysOpen, Arrays
from export.runners.torch_runner import TorchRunner

_INPUTS, _OUTPUTS = ("input_ids", "attention_mask"), ("logits",)


class _TorchPart(AlwaysOpen):
    """One of the two as a runner; several threads may call it, one at a time runs."""

    def __init__(self, part: PromptPart | StepPart, whole: TorchRunner, turn: Lock) -> None:
        self.name, self.precision = whole.name, whole.precision
        self.inputs: Mapping[str, tuple[int | str, ...]] = dict.fromkeys(part.inputs, ("batch", "sequence"))
        self._part, self._turn = part, turn

    def infer(self, feed: Mapping[str, NDArray[np.generic]]) -> Arrays:
        """The logits, and the keys and values that are kept, by name."""
        device = self._part.model.device
        tensors = [torch.from_numpy(feed[name]).to(device) for name in self._part.inputs]
        with self._turn, torch.inference_mode():
            found = self._part(*tensors)
        return {name: x.float().cpu().numpy() for name, x in zip(self._part.answers, found, strict=True)}


def split_decoder(model: PreTrainedModel) -> tuple[_TorchPart, _TorchPart]:
    """What reads prompts and what says one token more, of a decoder in evaluation mode."""
    whole, turn = TorchRunner(model.eval()), Lock()
    parts = (PromptPart(model, _INPUTS, _OUTPUTS), StepPart(model, _OUTPUTS))
    first, second = (_TorchPart(part, whole, turn) for part in parts)
    return first, second
