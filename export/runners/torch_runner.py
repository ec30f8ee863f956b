"""The torch model as a runner: FP32, or INT8 as fake quantization computes it."""

import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from export.runners.base import Arrays
from qat.wrap import is_wrapped


class TorchRunner:
    """Runs a model on the device it is on; several threads may call it, one at a time runs."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        inputs: tuple[str, ...] = ("input_ids", "attention_mask"),
        outputs: tuple[str, ...] = ("logits",),
        axes: tuple[int | str, ...] = ("batch", "sequence"),
    ) -> None:
        self.name = "torch"
        self.precision = "int8 (fake)" if is_wrapped(model) else "fp32"
        self.inputs: Mapping[str, tuple[int | str, ...]] = dict.fromkeys(inputs, axes)
        self._model = model
        self._outputs = outputs
        self._lock = threading.Lock()  # a shared layer keeps the depth it runs at

    def __enter__(self) -> Self:
        self._model.eval()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def infer(self, feed: Mapping[str, NDArray[np.generic]]) -> Arrays:
        """The model's outputs by name; inputs that are not fed are the model's own defaults."""
        device = self._model.device
        tensors = {name: torch.from_numpy(feed[name]).to(device) for name in self.inputs if name in feed}
        with self._lock, torch.inference_mode():
            found = self._model(**tensors, return_dict=True)
        return {name: found[name].float().cpu().numpy() for name in self._outputs}
