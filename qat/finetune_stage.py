"""The fine-tuning stage: a calibrated checkpoint is trained, can go on after an interruption, and is written whole."""

import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from transformers import PreTrainedModel

from qat.checkpoint import Checkpoint, save_checkpoint
from qat.finetune import Finetuning, TrainingPlan, identify_training, train_rows
from qat.finetune_settings import FinetuneSettings
from qat.locks import hold_folder
from qat.processes import naming_lost_process, processes, rank, wait_for_all
from qat.tasks.base import Encoded
from qat.training_callbacks import Progress
from qat.training_run import TrainingRun
from qat.vocabulary import fingerprint_vocabulary

Facts = dict[str, object]


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneStage:
    """What to do: how to train, what to learn from, and where checkpoints are kept meanwhile.

    Attributes:
        settings: the schedule.
        teacher: the float original, None to learn from the labels alone.
        run: where checkpoints are kept until the folder is written; None keeps none.
        score: what the manifest says of the trained model beside its losses.
    """

    settings: FinetuneSettings
    teacher: PreTrainedModel | None = None
    run: TrainingRun | None = None
    score: Callable[[], Facts] = field(default=dict)

    def make_plan(self, checkpoint: Checkpoint) -> TrainingPlan:
        """How that checkpoint is trained."""
        return TrainingPlan(
            settings=self.settings,
            pad_token_id=checkpoint.pad_token_id,
            teacher=self.teacher,
            run=self.run,
        )


def checkpoints_beside(out: Path) -> Path:
    """Where ``qdq finetune`` keeps its checkpoints until ``out`` is written.

    >>> checkpoints_beside(Path("runs/finetuned")).as_posix()
    'runs/finetuned.checkpoints'
    """
    return out.with_name(out.name + ".checkpoints")


def finetune_checkpoint(
    checkpoint: Checkpoint,
    rows: Encoded,
    stage: FinetuneStage,
    *,
    out: Path,
    inputs: Mapping[str, Path],
    progress: Progress = lambda step, steps, loss: None,
) -> tuple[Finetuning, Facts]:
    """What training did, and what the manifest says of it; ``checkpoint`` is trained in place and written to ``out``.

    Of several processes the first one writes.

    Args:
        checkpoint: a calibrated checkpoint.
        rows: encoded rows with labels.
        stage: how to train.
        out: the fine-tuned folder.
        inputs: what the manifest names as its inputs, by role.
        progress: called after each step with the step, all steps and its loss.

    Raises:
        QDQError: as ``finetune``; the checkpoints of its run stay.
        OutputError: ``out`` cannot be written, or another process is at the same run.
        ProcessError: one of several processes has ended; the checkpoints of its run stay.
    """
    plan = stage.make_plan(checkpoint)
    origin = describe_training(checkpoint, rows, stage)
    with ExitStack() as stack:
        if stage.run is not None and rank() == 0:
            stage.run.folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(hold_folder(stage.run.folder))
        with naming_lost_process("what was trained so far is kept; go on with --resume"):
            done = train_rows(checkpoint.model, rows, plan, progress=progress)
            wait_for_all()  # the others may still be writing into the run's folder, which the first one deletes
        facts: Facts = {
            "finetune": stage.settings.model_dump(),
            "first_loss": done.first_loss,
            "last_loss": done.last_loss,
            "best_step": done.best_step,
            "held_out": {str(step): loss for step, loss in done.held_out.items()},
        }
        if rank() != 0:
            return done, facts
        facts |= stage.score()
        origin |= {"processes": processes()}  # they know each other once they have trained
        save_checkpoint(checkpoint, out, stage="finetune", inputs=inputs, facts={"origin": origin, **facts})
    if stage.run is not None:
        shutil.rmtree(stage.run.folder)
    return done, facts


def describe_training(checkpoint: Checkpoint, rows: Encoded, stage: FinetuneStage) -> dict[str, object]:
    """What ``finetune_checkpoint`` makes its folder from; the same origin gives the same weights."""
    return {
        "vocabulary": fingerprint_vocabulary(checkpoint.tokenizer),
        **identify_training(checkpoint.model, rows, stage.make_plan(checkpoint)),
        "processes": processes(),
    }
