"""How a quantized model is fine-tuned, as frozen values."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from qat.distill import Distillation
from qat.learned_ranges import LearnedRanges
from qat.range_training import RangeMode, RangeTraining
from qat.reestimated_ranges import ReestimatedRanges


class FinetuneSettings(BaseModel):
    """How a quantized model is fine-tuned, frozen.

    Attributes:
        max_steps: optimizer steps; about a tenth of the original schedule is enough.
        learning_rate: at the top of the cosine schedule, after the warm-up; well below the original one
            polishes a good calibration, bad ranges want ten times that.
        batch_size: rows a step and device.
        warmup: the share of steps over which the rate rises.
        weight_decay: on matrices only, as Trainer does it.
        max_grad_norm: gradients are scaled down to this norm.
        seed: of the shuffle and of dropout.
        gradient_checkpointing: trades time for memory.
        dropout: while training, in place of the checkpoint's own; the rounding noise regularizes enough.
        distillation: with a teacher, its share of the loss; the labels have the rest.
        temperature: of the softened logits.
        hidden: with a teacher, how much the distance of the hidden states adds to the loss.
        attention: with a teacher, how much the distance of the attention probabilities adds.
        ranges: activation ranges stay as calibration found them (``frozen``), follow what they see (``reestimated``),
            or are trained as well (``learned``).
        range_rate: of ranges that move, the share of its range one step may change at the top of the schedule.
        held_out: how many of the training rows choose the best step instead of being trained on, 0 for none and the
            last step; never more than a tenth.
        evaluations: how often they are scored, evenly over the run; as often a checkpoint is kept.
        patience: after how many scores in a row without a better one training stops.
        precision: of the arithmetic between the quantizers: ``bf16`` and ``fp16`` by autocast, the teacher's as well.
        accumulate: micro-batches a step; a step sees ``batch_size`` rows of each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    max_steps: int = Field(default=200, ge=1)
    learning_rate: float = Field(default=2e-5, gt=0, strict=False)
    batch_size: int = Field(default=32, ge=1)
    warmup: float = Field(default=0.05, ge=0, lt=1, strict=False)
    weight_decay: float = Field(default=0.01, ge=0, strict=False)
    max_grad_norm: float = Field(default=1.0, gt=0, strict=False)
    seed: int = Field(default=0, ge=0)
    gradient_checkpointing: bool = False
    dropout: float = Field(default=0.0, ge=0, lt=1, strict=False)
    distillation: float = Field(default=0.9, ge=0, le=1, strict=False)
    temperature: float = Field(default=2.0, gt=0, strict=False)
    hidden: float = Field(default=0.0, ge=0, strict=False)
    attention: float = Field(default=0.0, ge=0, strict=False)
    ranges: RangeMode = "frozen"
    range_rate: float = Field(default=0.01, gt=0, lt=1, strict=False)
    held_out: int = Field(default=512, ge=0)
    evaluations: int = Field(default=5, ge=1)
    patience: int = Field(default=3, ge=1)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    accumulate: int = Field(default=1, ge=1)

    @property
    def teaching(self) -> Distillation:
        """What a teacher teaches."""
        return Distillation(
            answers=self.distillation, temperature=self.temperature, hidden=self.hidden, attention=self.attention
        )

    def make_ranges(self) -> RangeTraining:
        """What happens to activation ranges, for one run."""
        match self.ranges:
            case "frozen":
                return RangeTraining()
            case "reestimated":
                return ReestimatedRanges(self.range_rate)
            case "learned":
                return LearnedRanges(self.range_rate)
