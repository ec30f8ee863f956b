"""QAT: a calibrated model trained on with its quantizers in place, by transformers' own Trainer."""

import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from qat.batches import Collator
from qat.distill import distillation_loss
from qat.errors import RangeError
from qat.huggingface import quantization_config
from qat.layers import refresh_weight_ranges
from qat.learned_ranges import give_ranges_their_rate, learning_ranges
from qat.quantizer import quantizers_without_range
from qat.tasks.base import Encoded, Feature

Progress = Callable[[int, int, float | None], None]


class FinetuneSettings(BaseModel):
    """How a quantized model is fine-tuned, frozen.

    Attributes:
        max_steps: optimizer steps; about a tenth of the original schedule is enough.
        learning_rate: at the top of the cosine schedule, after the warm-up; about a hundredth of the original one
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
        ranges: activation ranges stay as calibration found them (``frozen``), or are trained as well (``learned``).
        range_rate: of learned ranges, the share of its range one step may change at the top of the schedule.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    max_steps: int = Field(default=200, ge=1)
    learning_rate: float = Field(default=2e-6, gt=0, strict=False)
    batch_size: int = Field(default=32, ge=1)
    warmup: float = Field(default=0.05, ge=0, lt=1, strict=False)
    weight_decay: float = Field(default=0.01, ge=0, strict=False)
    max_grad_norm: float = Field(default=1.0, gt=0, strict=False)
    seed: int = Field(default=0, ge=0)
    gradient_checkpointing: bool = False
    dropout: float = Field(default=0.0, ge=0, lt=1, strict=False)
    distillation: float = Field(default=0.9, ge=0, le=1, strict=False)
    temperature: float = Field(default=2.0, gt=0, strict=False)
    ranges: Literal["frozen", "learned"] = "frozen"
    range_rate: float = Field(default=0.01, gt=0, lt=1, strict=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finetuning:
    """What fine-tuning did: the settings, and the mean loss of the first and last tenth of its steps."""

    settings: FinetuneSettings
    steps: int
    first_loss: float
    last_loss: float


class QATTrainer(Trainer):
    """transformers' Trainer for a quantized model: refuses to start without ranges, learns from a teacher if given one.

    Args:
        teacher: the float original; it is run without gradients on the same batches.
        distillation: the teacher's share of the loss.
        temperature: of the softened logits.
        range_rate: the share of a learned range that one step may change (``qat.learned_ranges``).
    """

    def __init__(
        self,
        *arguments: Any,
        teacher: PreTrainedModel | None = None,
        distillation: float = 0.9,
        temperature: float = 2.0,
        range_rate: float = 0.01,
        **named: Any,
    ) -> None:
        super().__init__(*arguments, **named)
        self.teacher: nn.Module | None = teacher
        if self.teacher is not None:
            self.teacher.requires_grad_(False).eval()
            nn.Module.to(self.teacher, self.args.device)
            # both shares are means over a batch: Trainer must not scale one by the number of processes or micro-batches
            self.model_accepts_loss_kwargs = False
        self.distillation = distillation
        self.temperature = temperature
        self.range_rate = range_rate

    def create_optimizer(self, *arguments: Any, **named: Any) -> torch.optim.Optimizer:
        """As Trainer's, with a rate of its own for every learned range."""
        made = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(*arguments, **named)
        if made:
            give_ranges_their_rate(optimizer, _unwrapped(self.model), self.range_rate)
        return optimizer

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,  # noqa: FBT001, FBT002  Trainer's own signature
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """As Trainer's, mixed with the distance to the teacher's logits where there is a teacher."""
        if self.teacher is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        with torch.no_grad():
            answers = self.teacher(**{name: value for name, value in inputs.items() if name != "labels"})
        pull = distillation_loss(outputs.logits, answers.logits, self.temperature)
        loss = (1 - self.distillation) * loss + self.distillation * pull
        return (loss, outputs) if return_outputs else loss

    def train(self, *arguments: Any, **named: Any) -> Any:
        """As Trainer's.

        Raises:
            CheckpointError: the model is not quantized.
            RangeError: quantizers without a range or weights that are not finite, by name.
        """
        quantization_config(cast(PreTrainedModel, _unwrapped(self.model)))
        missing = quantizers_without_range(_unwrapped(self.model))
        if missing:
            raise RangeError(
                f"{len(missing)} quantizers have no range ({', '.join(missing[:3])}): "
                "calibrate the model before training it"
            )
        _require_finite_weights(_unwrapped(self.model))
        output = super().train(*arguments, **named)
        refresh_weight_ranges(_unwrapped(self.model))
        return output


class _RowsOfTask(Dataset[Feature]):
    def __init__(self, encoded: Encoded) -> None:
        self._encoded = encoded

    def __len__(self) -> int:
        return len(self._encoded)

    def __getitem__(self, index: int) -> Feature:
        return self._encoded[index]


class _Reporter(TrainerCallback):
    """Hands every step's loss on, and stops at the first that is not a number."""

    def __init__(self, progress: Progress) -> None:
        self.losses: list[float] = []
        self._progress = progress

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if not math.isfinite(loss):
            raise RangeError(f"the loss is {loss} at step {state.global_step}: lower --set finetune.learning_rate")
        self.losses.append(float(loss))
        self._progress(state.global_step, state.max_steps, float(loss))


def finetune(
    model: PreTrainedModel,
    rows: Encoded,
    *,
    tokenizer: PreTrainedTokenizerBase,
    teacher: PreTrainedModel | None = None,
    settings: FinetuneSettings | None = None,
    progress: Progress = lambda step, steps, loss: None,
) -> Finetuning:
    """What training did; ``model`` is trained in place and left in evaluation mode.

    Args:
        model: a calibrated model; it trains on the GPU where there is one.
        rows: encoded training rows with labels.
        tokenizer: knows the padding token.
        teacher: the float original to learn from, beside the labels.
        settings: the schedule.
        progress: called after each step with the step, all steps and its loss.

    Raises:
        CheckpointError: the model is not quantized.
        RangeError: quantizers without a range, or a loss that is not finite.
    """
    settings = settings or FinetuneSettings()
    reporter = _Reporter(progress)
    device = model.device
    learning = learning_ranges(model) if settings.ranges == "learned" else nullcontext()
    recomputing = _recomputing(model) if settings.gradient_checkpointing else nullcontext()
    with tempfile.TemporaryDirectory() as folder, _dropping(model, settings.dropout), learning, recomputing:
        trainer = QATTrainer(
            model=model,
            args=_training_arguments(settings, folder),
            train_dataset=_RowsOfTask(rows),
            data_collator=Collator(pad_token_id=int(tokenizer.pad_token_id or 0)),
            callbacks=[reporter],
            teacher=teacher,
            distillation=settings.distillation,
            temperature=settings.temperature,
            range_rate=settings.range_rate,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    nn.Module.to(model, device).eval()
    tenth = max(1, len(reporter.losses) // 10)
    return Finetuning(
        settings=settings,
        steps=len(reporter.losses),
        first_loss=sum(reporter.losses[:tenth]) / tenth,
        last_loss=sum(reporter.losses[-tenth:]) / tenth,
    )


@contextmanager
def _dropping(model: nn.Module, share: float) -> Iterator[None]:
    before = [(module, module.p) for module in model.modules() if isinstance(module, nn.Dropout)]
    for module, _ in before:
        module.p = share
    try:
        yield
    finally:
        for module, own in before:
            module.p = own


@contextmanager
def _recomputing(model: PreTrainedModel) -> Iterator[None]:
    """Inside the block every layer recomputes its activations in the backward pass, also where upstream cannot."""
    # transformers renamed the methods between the versions we support
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    disable = getattr(model, "activation_checkpointing_disable", None) or model.gradient_checkpointing_disable
    enable({"use_reentrant": False})
    try:
        yield
    finally:
        disable()


def _require_finite_weights(model: nn.Module) -> None:
    for name, weight in model.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise RangeError(
                f"weight '{name}' holds values that are not finite before the first step: "
                "the checkpoint is broken, take the one it was made from"
            )


def _training_arguments(settings: FinetuneSettings, folder: str) -> TrainingArguments:
    return TrainingArguments(
        output_dir=folder,
        max_steps=settings.max_steps,
        learning_rate=settings.learning_rate,
        per_device_train_batch_size=settings.batch_size,
        warmup_steps=math.ceil(settings.warmup * settings.max_steps),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        lr_scheduler_type="cosine",
        seed=settings.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def _unwrapped(model: Any) -> nn.Module:
    module: nn.Module = getattr(model, "module", model)
    return module
