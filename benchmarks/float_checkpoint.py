"""A float checkpoint of another task from an encoder: ``python -m benchmarks.float_checkpoint ENCODER --task T ...``.

The head is new; encoder and head are fine-tuned as QAT fine-tunes, without quantizers. It is what QAT of that task is
measured against.
"""

from pathlib import Path
from typing import Annotated

import typer
from transformers import AutoTokenizer, set_seed

from qat.checkpoint import Checkpoint, read_config, require_head, save_checkpoint
from qat.commands import encode_rows
from qat.console import print_json, say, show_progress
from qat.finetune import TrainingPlan, train_rows
from qat.finetune_settings import FinetuneSettings
from qat.options import SetOption
from qat.quiet import quiet_transformers
from qat.recipe import validate_settings
from qat.settings import parse_overrides
from qat.tasks import find_task
from qat.tasks.record import TaskRecord

_LABELS = ["LABEL_0", "LABEL_1"]
"""What transformers gives a head that is told none; of question answering, the start and the end."""

_SETTINGS = FinetuneSettings(max_steps=600, learning_rate=5e-5, dropout=0.1, held_out=512)


def start_checkpoint(encoder: Path, task: str, labels: list[str], seed: int) -> Checkpoint:
    """The encoder under a new head of ``task``, with ``labels`` in order, one of them for a number."""
    found = find_task(task)
    require_head(read_config(encoder), found, folder=encoder)
    names = {
        **found.config,
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {name: number for number, name in enumerate(labels)},
    }
    set_seed(seed)
    with quiet_transformers():
        model = found.auto_class.from_pretrained(
            encoder, ignore_mismatched_sizes=True, trust_remote_code=False, problem_type=None, **names
        )
        tokenizer = AutoTokenizer.from_pretrained(encoder, trust_remote_code=False)
    return Checkpoint(folder=encoder, model=model, tokenizer=tokenizer)


def float_checkpoint_command(
    encoder: Annotated[Path, typer.Argument(help="Float checkpoint folder; its head is thrown away.")],
    task: Annotated[str, typer.Option(help="Task, as Hugging Face names it.")],
    data: Annotated[Path, typer.Option(help="Labelled rows to train on.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint.")],
    label: Annotated[list[str] | None, typer.Option("--label", help="A label of the head, in order.")] = None,
    settings: SetOption = None,
) -> None:
    """Fine-tune an encoder for a task in float; the last line is JSON.

    Example: python -m benchmarks.float_checkpoint my-bert --task multiple-choice --data t.jsonl --out mc
    """
    overrides = {**_SETTINGS.model_dump(), **parse_overrides(settings or []).get("finetune", {})}
    plan_settings = validate_settings(FinetuneSettings, overrides, where="fine-tuning settings")
    checkpoint = start_checkpoint(encoder, task, label or _LABELS, plan_settings.seed)
    found = find_task(task)
    training = encode_rows(checkpoint, found, TaskRecord(name=task), data)
    pad = checkpoint.pad_token_id
    plan = TrainingPlan(settings=plan_settings, pad_token_id=pad, quantized=False)
    with show_progress("train") as advance:
        done = train_rows(checkpoint.model, training, plan, progress=lambda step, steps, loss: advance(step, steps))
    facts = {"finetune": plan_settings.model_dump(), "best_step": done.best_step, "last_loss": done.last_loss}
    save_checkpoint(checkpoint, out, stage="float", inputs={"encoder": encoder, "data": data}, facts=facts)
    say(f"{out}: {done.steps} steps, the best {done.best_step}")
    print_json({"out": str(out), **facts})


if __name__ == "__main__":
    typer.run(float_checkpoint_command)
