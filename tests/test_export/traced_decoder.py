"""A calibrated decoder and its two graphs, to be lowered for any target."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import onnx_ir as ir
from transformers import PreTrainedModel

from export.exported import Lowering, trace_model, trace_next, write_exported
from export.targets import find_target
from export.targets.base import Precision
from tests.tiny import tiny_tokenizer
from tests.tiny_decoders import make_calibrated_decoder


@dataclass(frozen=True)
class TracedDecoder:
    """A calibrated decoder and its graphs before any lowering; its float original is ``tiny_decoder(layers=1)``."""

    model: PreTrainedModel
    whole: ir.Model
    step: ir.Model

    @classmethod
    def make(cls) -> Self:
        """One of one layer."""
        model = make_calibrated_decoder(layers=1)
        step = trace_next(model)
        assert step is not None
        return cls(model, trace_model(model), step)

    def write(self, folder: Path, target: str, precision: Precision, *, quantized: bool = True) -> Path:
        """The folder exported for a target."""
        lowering = Lowering(find_target(target), precision, quantized=quantized)
        tokenizer = tiny_tokenizer()
        return write_exported(
            self.whole, self.model, folder, lowering=lowering, tokenizer=tokenizer, step=self.step
        ).folder
