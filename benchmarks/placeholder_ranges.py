"""Ranges for models of which only the shape counts: every plan, file size and export time is the same for any."""

import torch
from transformers import PreTrainedModel

from qat.huggingface import mark_calibrated
from qat.layers import refresh_weight_ranges
from qat.quantizer import named_quantizers

_AMAX = 4.0


def fill_ranges(model: PreTrainedModel) -> None:
    """Gives every activation quantizer of a wrapped model the same range, weights their own, and calls it calibrated.

    Raises:
        CheckpointError: a model that is not quantized.
    """
    for _, quantizer in named_quantizers(model):
        if quantizer.spec.range_source == "calibrated":
            quantizer.set_range(torch.full_like(quantizer.amax, _AMAX))
    refresh_weight_ranges(model)
    mark_calibrated(model)
