"""QAT: a calibrated model trained on with its quantizers in place, by transformers' own Trainer."""

import math
import tempfile
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainingArguments,
)

from qat.batches import Collator, find_pad
from qat.errors import RecipeError
from qat.finetune_settings import FinetuneSettings
from qat.full_disk import naming_full_disk
from qat.origin import digest_model, digest_rows
from qat.processes import processes, share_first
from qat.quiet import quiet_transformers
from qat.row_order import order_rows
from qat.tasks.base import Encoded, Feature
from qat.trainer import QATTrainer, TeachingTrainer
from qat.training_callbacks import Progress, ReportsSteps, StartsAt
from qat.training_modes import dropping, recomputing
from qat.training_run import TrainingRun, open_run_together


@dataclass(frozen=True, kw_only=True, slots=True)
class Finetuning:
    """What fine-tuning did.

    Attributes:
        settings: how.
        steps: how many optimizer steps were run.
        first_loss, last_loss: the mean loss of the first and last tenth of them.
        best_step: the step whose weights the model has now; 0 where training made nothing better.
        held_out: the loss of the rows held out of the training data, by step; empty where there were none.
    """

    settings: FinetuneSettings
    steps: int
    first_loss: float
    last_loss: float
    best_step: int
    held_out: dict[int, float]


class _RowsOfTask(Dataset[Feature]):
    """Rows in a given order, one of them several times where it says so."""

    def __init__(self, encoded: Encoded, order: NDArray[np.int64]) -> None:
        self._encoded, self._order = encoded, order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> Feature:
        return self._encoded[int(self._order[index])]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingPlan:
    """How a model is trained on rows.

    Attributes:
        settings: the schedule.
        pad_token_id: what token ids are padded with.
        teacher: the float original to learn from, beside the labels; None learns from the labels alone.
        run: where checkpoints are kept, to go on after an interruption; None keeps none.
        quantized: whether the model is a quantized one, whose ranges take part.
    """

    settings: FinetuneSettings
    pad_token_id: int
    teacher: PreTrainedModel | None = None
    run: TrainingRun | None = None
    quantized: bool = True

    def make_trainer(self, **named: Any) -> TeachingTrainer:
        """The trainer for such a model."""
        shared = {"teacher": self.teacher, "distillation": self.settings.teaching, **named}
        return QATTrainer(ranges=self.settings.make_ranges(), **shared) if self.quantized else TeachingTrainer(**shared)


def identify_training(model: PreTrainedModel, rows: Encoded, plan: TrainingPlan) -> dict[str, object]:
    """What a model is trained from, as it is now, and how: the same gives the same weights."""
    return {
        "model": digest_model(model),
        "rows": digest_rows(rows),
        "teacher": None if plan.teacher is None else digest_model(plan.teacher),
        "settings": plan.settings.model_dump(mode="json"),
    }


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

    Some of the rows are not trained on: the step at which their loss is lowest is the one the model ends with, the
    start included.

    Args:
        model: a calibrated model; it trains on the GPU where there is one.
        rows: encoded training rows with labels.
        tokenizer: knows the padding token.
        teacher: the float original to learn from, beside the labels.
        settings: the schedule.
        progress: called after each step with the step, all steps and its loss.

    Raises:
        CheckpointError: the model is not quantized, or the teacher does not fit.
        RangeError: quantizers without a range, or a loss that is not finite.
    """
    pad = find_pad(tokenizer)
    plan = TrainingPlan(settings=settings or FinetuneSettings(), pad_token_id=pad, teacher=teacher)
    return train_rows(model, rows, plan, progress=progress)


def train_rows(
    model: PreTrainedModel,
    rows: Encoded,
    plan: TrainingPlan,
    *,
    progress: Progress = lambda step, steps, loss: None,
) -> Finetuning:
    """As ``finetune``, after any plan.

    Raises:
        CheckpointError: as ``finetune``, and where the plan's run belongs to another one.
        OutputError: there is no room left for checkpoints.
        RangeError: as ``finetune``.
        RecipeError: FP16 without a GPU, which would train in FP32 and say nothing.
    """
    settings, run = plan.settings, plan.run
    if settings.precision == "fp16" and not torch.accelerator.is_available():
        raise RecipeError("finetune.precision=fp16 needs a GPU, and there is none: on a CPU give bf16 or fp32")
    training, held = split_rows(rows, settings)
    device = model.device
    with ExitStack() as stack:
        own = run.folder if run is not None else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        arguments = _training_arguments(settings, own, scored=len(held) > 0, kept=run is not None)
        folder = share_first(own)  # once there are arguments, several processes know each other
        arguments.output_dir = str(folder)
        found = None
        if run is not None:
            identity = identify_training(model, rows, plan) | {"processes": processes()}
            found = open_run_together(run, identity)
        stack.enter_context(dropping(model, settings.dropout))
        stack.enter_context(recomputing(model) if settings.gradient_checkpointing else nullcontext())
        batches = settings.max_steps * settings.accumulate * arguments.world_size
        order = order_rows(training.lengths, batch_size=settings.batch_size, batches=batches, seed=settings.seed)
        trainer = plan.make_trainer(
            model=model,
            args=arguments,
            train_dataset=_RowsOfTask(training, order),
            eval_dataset=_RowsOfTask(held, np.argsort(held.lengths)) if len(held) else None,
            data_collator=Collator(pad_token_id=plan.pad_token_id),
            callbacks=[ReportsSteps(progress, None if run is None else folder)],
        )
        trainer.remove_callback(PrinterCallback)
        with quiet_transformers(), naming_full_disk(folder):
            best, scores = _train(trainer, model, settings, found)
    nn.Module.to(model, device).eval()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    tenth = max(1, len(losses) // 10)
    return Finetuning(
        settings=settings,
        steps=len(losses),
        first_loss=sum(losses[:tenth]) / tenth,
        last_loss=sum(losses[-tenth:]) / tenth,
        best_step=best,
        held_out=scores,
    )


def split_rows(rows: Encoded, settings: FinetuneSettings) -> tuple[Encoded, Encoded]:
    """The rows to train on, and those to choose the best step by, drawn by the seed."""
    count = min(settings.held_out, len(rows) // 10)
    order = np.random.default_rng(settings.seed).permutation(len(rows))
    held, kept = np.sort(order[:count]), np.sort(order[count:])
    pick = [rows.pick(map(int, part)) for part in (kept, held)]
    return pick[0], pick[1]


def _train(
    trainer: TeachingTrainer, model: PreTrainedModel, settings: FinetuneSettings, found: Path | None
) -> tuple[int, dict[int, float]]:
    """Trains, and gives the step the weights are of, with the scores of all steps."""
    going_on = None if found is None else str(found)
    if trainer.eval_dataset is None:
        trainer.train(resume_from_checkpoint=going_on)
        return trainer.state.global_step, {}
    before = {name: value.detach().clone() for name, value in model.state_dict().items()}
    start = float(trainer.evaluate()["eval_loss"])
    trainer.add_callback(StartsAt(start))
    trainer.add_callback(EarlyStoppingCallback(early_stopping_patience=settings.patience))
    trainer.train(resume_from_checkpoint=going_on)
    history = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    scores = {0: start, **{int(entry["step"]): float(entry["eval_loss"]) for entry in history}}
    best = min(scores, key=lambda step: scores[step])
    if best == 0:
        model.load_state_dict(before)
    return best, scores


def _training_arguments(settings: FinetuneSettings, folder: Path, *, scored: bool, kept: bool) -> TrainingArguments:
    every = math.ceil(settings.max_steps / settings.evaluations)
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=settings.max_steps,
        learning_rate=settings.learning_rate,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulate,
        warmup_steps=math.ceil(settings.warmup * settings.max_steps),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        lr_scheduler_type="cosine",
        use_cpu=not torch.accelerator.is_available(),  # BF16 on a CPU must be told that it is one
        bf16=settings.precision == "bf16",
        fp16=settings.precision == "fp16",
        seed=settings.seed,
        train_sampling_strategy="sequential",  # the rows come ordered
        logging_steps=1,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if scored else "no",
        eval_steps=every,
        save_strategy="steps" if scored or kept else "no",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=scored,
        metric_for_best_model="loss" if scored else None,
        greater_is_better=False if scored else None,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
