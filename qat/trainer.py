"""``QATTrainer``: transformers' Trainer for quantized models, with a teacher and moving ranges where asked."""

from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from qat.batches import drop_targets, has_targets
from qat.distill import Distillation, prepare_teacher, requested_outputs, teaching_loss
from qat.errors import DataError, RangeError
from qat.huggingface import quantization_config
from qat.layers import refresh_weight_ranges
from qat.quantizer import quantizers_without_range
from qat.range_training import Batch, RangeTraining


class TeachingTrainer(Trainer):
    """transformers' Trainer with a teacher beside the labels, for float models as well.

    Args:
        teacher: a float model; it is run without gradients on the same batches.
        distillation: what is learnt from it.
    """

    def __init__(
        self,
        *arguments: Any,
        teacher: PreTrainedModel | None = None,
        distillation: Distillation | None = None,
        **named: Any,
    ) -> None:
        super().__init__(*arguments, **named)
        self.distillation = distillation or Distillation()
        self.teacher: nn.Module | None = None
        if teacher is not None:
            self.teacher = prepare_teacher(teacher, self.distillation)
            nn.Module.to(self.teacher, self.args.device)
        # losses are means over a batch, the heads' too, whatever their signatures say: Trainer must not take them for
        # sums over all processes and micro-batches
        self.model_accepts_loss_kwargs = False

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,  # noqa: FBT001, FBT002  Trainer's own signature
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """As Trainer's, mixed with the distance to the teacher where there is one.

        Raises:
            CheckpointError: a teacher of other labels or sizes.
            DataError: a label the head does not have.
        """
        _require_labels(self.inner, inputs)
        labelled = has_targets(inputs)
        if self.teacher is None:
            _require_lesson(labelled=labelled)
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        asked = {**inputs, **requested_outputs(self.distillation)}
        if labelled:
            loss, outputs = super().compute_loss(model, asked, True, num_items_in_batch)
        else:
            loss, outputs = torch.zeros((), device=self.args.device), model(**asked)
        with torch.no_grad():
            wanted = self.teacher(**drop_targets(asked))
        answers, inner = teaching_loss(self.inner, outputs, wanted, inputs, self.distillation)
        share = self.distillation.answers if labelled else 1.0
        loss = (1 - share) * loss + share * answers + inner
        return (loss, outputs) if return_outputs else loss

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,  # noqa: FBT001  Trainer's own signature
        ignore_keys: list[str] | None = None,
    ) -> Any:
        """As Trainer's; of rows without labels the loss alone, which Trainer takes for one it cannot have."""
        if has_targets(inputs):
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        given: Any = self._prepare_inputs(cast(Any, inputs))
        with torch.no_grad(), self.compute_loss_context_manager():
            loss: Tensor = self.compute_loss(model, given)
        return loss.mean().detach(), None, None

    @property
    def inner(self) -> PreTrainedModel:
        """The model itself, without what wraps it for several processes."""
        return cast(PreTrainedModel, getattr(self.model, "module", self.model))


class QATTrainer(TeachingTrainer):
    """transformers' Trainer for a quantized model: refuses to start without ranges, learns from a teacher if given one.

    Args:
        teacher: the float original; it is run without gradients on the same batches.
        distillation: what is learnt from it.
        ranges: what happens to activation ranges: they stay (the default), follow what they see
            (``qat.reestimated_ranges``), or are learned (``qat.learned_ranges``).
    """

    def __init__(self, *arguments: Any, ranges: RangeTraining | None = None, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.ranges = ranges or RangeTraining()
        self.add_callback(_MovesRanges(self.ranges))

    def create_optimizer(self, *arguments: Any, **named: Any) -> torch.optim.Optimizer:
        """As Trainer's, with a rate of its own for every learned range."""
        made = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(*arguments, **named)
        if made:
            self.ranges.arrange(optimizer, self.inner)
        return optimizer

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *arguments: Any, **named: Any) -> Any:
        """As ``TeachingTrainer``'s."""
        if model.training:
            self.ranges.begin(inputs)
        return super().compute_loss(model, inputs, *arguments, **named)

    def train(self, *arguments: Any, **named: Any) -> Any:
        """As Trainer's.

        Raises:
            CheckpointError: the model is not quantized.
            RangeError: quantizers without a range or weights that are not finite, by name.
        """
        quantization_config(self.inner)
        missing = quantizers_without_range(self.inner)
        if missing:
            raise RangeError(
                f"{len(missing)} quantizers have no range ({', '.join(missing[:3])}): "
                "calibrate the model before training it"
            )
        _require_finite_weights(self.inner)
        with self.ranges.training(self.inner, self._first_batches):
            output = super().train(*arguments, **named)
        refresh_weight_ranges(self.inner)
        return output

    def _first_batches(self) -> Iterator[Batch]:
        """Batches of the training rows in their own order, which leaves every random number undrawn."""
        loader: Iterable[dict[str, Any]] = self.get_eval_dataloader(cast(Any, self.train_dataset))
        return (drop_targets(batch) for batch in loader)


_CLASSIFIERS = ("ForSequenceClassification", "ForTokenClassification")
_IGNORED = -100
"""The label of tokens that have none."""


class _MovesRanges(TrainerCallback):
    def __init__(self, ranges: RangeTraining) -> None:
        self._ranges = ranges

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._ranges.step(state.global_step, state.max_steps)


def _require_labels(model: PreTrainedModel, inputs: dict[str, Any]) -> None:
    labels, count = inputs.get("labels"), len(model.config.id2label or {})
    if labels is None or labels.is_floating_point() or not type(model).__name__.endswith(_CLASSIFIERS):
        return
    wrong = labels[((labels < 0) & (labels != _IGNORED)) | (labels >= count)]
    if len(wrong):
        raise DataError(
            f"label {int(wrong[0])} is not one of the {count} of the model's head: expected 0 to {count - 1}"
        )


def _require_lesson(*, labelled: bool) -> None:
    if not labelled:
        raise DataError(
            "the rows have no labels, and there is no teacher to learn from instead: give the float checkpoint"
        )


def _require_finite_weights(model: nn.Module) -> None:
    for name, weight in model.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise RangeError(
                f"weight '{name}' holds values that are not finite before the first step: "
                "the checkpoint is broken, take the one it was made from"
            )
