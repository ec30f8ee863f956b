"""What watches a run of Trainer's: every step's loss is handed on, one that is no number ends the run."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from qat.errors import RangeError
from qat.training_run import newest_checkpoint

Progress = Callable[[int, int, float | None], None]
"""Called after each step with the step, all steps and the loss."""


class ReportsSteps(TrainerCallback):
    """Hands every step's loss on, scores the last step too, and stops at the first loss that is not a number.

    Args:
        progress: called after each step with the step, all steps and its loss.
        kept: where checkpoints lie that the user can go back to, None where they do not last.
    """

    def __init__(self, progress: Progress, kept: Path | None) -> None:
        self._progress, self._kept = progress, kept

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Has the last step scored and kept."""
        if state.global_step >= state.max_steps:
            control.should_evaluate = args.eval_strategy != "no"
            control.should_save = args.save_strategy != "no"

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Hands the loss on.

        Raises:
            RangeError: it is not finite.
        """
        loss = (logs or {}).get("loss")
        if loss is not None:
            self._require_finite("loss", loss, state)
            self._progress(state.global_step, state.max_steps, float(loss))

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Looks at the score.

        Raises:
            RangeError: it is not finite.
        """
        self._require_finite("loss of the rows held out", (metrics or {}).get("eval_loss", math.nan), state)

    def _require_finite(self, what: str, loss: float, state: TrainerState) -> None:
        if math.isfinite(loss):
            return
        good = None if self._kept is None else newest_checkpoint(self._kept)
        rest = "" if good is None else f"; the last good checkpoint is {good}"
        raise RangeError(f"the {what} is {loss} at step {state.global_step}: lower --set finetune.learning_rate{rest}")


class StartsAt(TrainerCallback):
    """Only what is better than the start counts as better.

    Args:
        score: the loss of the rows held out before the first step.
    """

    def __init__(self, score: float) -> None:
        self._score = score

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Sets the score to beat."""
        if state.best_metric is None:
            state.best_metric = self._score
