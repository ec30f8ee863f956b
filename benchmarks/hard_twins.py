"""Hard twins of easy checkpoints: ``python -m benchmarks.hard_twins CHECKPOINT --data FILE --eval FILE --out DIR``.

A model trained from scratch on one task has no outlier dimensions, so every quantizer does well on it. Its twin has
some: a few channels of the residual stream, and with them of the feed-forward outputs, are many times larger than the
others, as in large pretrained encoders (Bondarenko et al. 2021, arXiv 2109.12948, section 3). Layers that read the
stream take the factor back, the normalizations cannot, so the twin is trained until it answers as the original does.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor, nn
from transformers import PreTrainedModel

from qat.checkpoint import load_checkpoint, save_checkpoint
from qat.commands import encode_rows
from qat.console import print_json, say, show_progress
from qat.families import find_family
from qat.finetune import TrainingPlan, train_rows
from qat.finetune_settings import FinetuneSettings
from qat.residual_stream import scale_inputs, scale_outputs
from qat.scoring import infer_with, score_rows
from qat.tasks import find_task
from qat.tasks.record import TaskRecord

_CHANNELS = 3
_TRAINING = FinetuneSettings(learning_rate=1e-4, weight_decay=0.0, dropout=0.1, distillation=0.9, held_out=0)


def enlarge_channels(model: PreTrainedModel, channels: int, factor: float, seed: int) -> list[int]:
    """The channels whose stream was multiplied by ``factor``, in place; readers divide it out again.

    The scale of every normalization makes up for the larger variance of its sum, taking the channels as alike before.
    """
    width = int(model.config.hidden_size)
    chosen = torch.randperm(width, generator=torch.Generator().manual_seed(seed))[:channels].sort().values
    vector = torch.ones(width)
    vector[chosen] = factor
    spread = ((width - channels + channels * factor**2) / width) ** 0.5
    with torch.no_grad():
        for tensor in find_family(model.config.model_type).stream_tensors(model):
            for path in tensor.written:
                scale_outputs(model.get_submodule(path), vector)
            for path in tensor.readers:
                scale_inputs(model.get_submodule(path), 1 / vector)
            for path in tensor.gains:
                _make_up(model, model.get_submodule(path), vector, spread)
    return [int(channel) for channel in chosen]


def _make_up(model: PreTrainedModel, module: nn.Module, vector: Tensor, spread: float) -> None:
    if isinstance(module, nn.LayerNorm):
        # the sum comes in multiplied: its norm has the factor already
        module.weight.mul_(spread / vector)
    else:  # the end of a loop: the pooler reads what goes round in it
        scale_inputs(model.base_model.get_submodule("pooler"), 1 / vector)


def hard_twin_command(
    checkpoint: Annotated[Path, typer.Argument(help="Float checkpoint folder, fine-tuned on text classification.")],
    data: Annotated[Path, typer.Option(help="Labelled rows to train on.")],
    evaluation: Annotated[Path, typer.Option("--eval", help="Labelled rows to score on.")],
    out: Annotated[Path, typer.Option(help="Folder of the twin.")],
    factor: Annotated[float, typer.Option(min=1.0, help="How many times larger the channels become.")] = 30.0,
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 1000,
) -> None:
    """Make the hard twin of a checkpoint; the last line is JSON.

    Example: python -m benchmarks.hard_twins my-albert --data train.jsonl --eval dev.jsonl --out my-albert-hard
    """
    settings = _TRAINING.model_copy(update={"max_steps": steps})
    task = find_task("text-classification")
    original, twin = (load_checkpoint(checkpoint, task) for _ in range(2))
    train, scored = (encode_rows(twin, task, TaskRecord(name=task.name), path) for path in (data, evaluation))
    pad = twin.pad_token_id

    def score(model: PreTrainedModel) -> float:
        return score_rows(infer_with(model), scored, task, pad_token_id=pad).value

    facts: dict[str, object] = {"factor": factor, "channels": _CHANNELS, "original": score(original.model)}
    facts["enlarged"] = enlarge_channels(twin.model, _CHANNELS, factor, settings.seed)
    plan = TrainingPlan(settings=settings, pad_token_id=pad, teacher=original.model, quantized=False)
    with show_progress("train back") as advance:
        train_rows(twin.model, train, plan, progress=lambda step, steps, loss: advance(step, steps))
    facts |= {"steps": steps, "twin": score(twin.model), "finetune": settings.model_dump()}
    save_checkpoint(twin, out, stage="harden", inputs={"checkpoint": checkpoint, "data": data}, facts=facts)
    say(f"{out}: accuracy {facts['twin']} after {facts['original']}, channels {facts['enlarged']} enlarged")
    print_json({"out": str(out), **facts})


if __name__ == "__main__":
    typer.run(hard_twin_command)
