"""Hard twins of easy checkpoints: ``python -m benchmarks.hard_twins CHECKPOINT --data FILE --eval FILE --out DIR``.

A model trained from scratch on one task has no outlier dimensions, so every quantizer does well on it. Its twin has
some: a few channels of the residual stream, and with them of the feed-forward outputs, are many times larger than the
others, as in large pretrained encoders (Bondarenko et al. 2021, arXiv 2109.12948, section 3). Layers that read the
stream take the factor back, the normalizations cannot, so the twin is trained until it answers as the original does.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count, islice
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor, nn
from transformers import PreTrainedModel, get_cosine_schedule_with_warmup

from qat.batches import iterate_batches
from qat.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from qat.console import print_json, say, show_stages
from qat.distill import distillation_loss
from qat.families import find_family
from qat.residual_stream import scale_inputs, scale_outputs
from qat.scoring import infer_with, score_rows
from qat.tasks import find_task
from qat.tasks.base import Encoded

_TEMPERATURE = 2.0
_LABELS_SHARE = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Hardening:
    """What is done to the original: how many channels, how much larger, and the training that heals it."""

    factor: float
    steps: int
    channels: int = 3
    learning_rate: float = 1e-4
    batch_size: int = 32
    seed: int = 0


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


def train_back(
    twin: PreTrainedModel, original: PreTrainedModel, rows: Encoded, hardening: Hardening, pad_token_id: int
) -> Iterator[float]:
    """Trains ``twin`` in place to answer as ``original`` does, a step and its loss at a time."""
    optimizer = torch.optim.AdamW(twin.parameters(), lr=hardening.learning_rate, weight_decay=0.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, hardening.steps // 20, hardening.steps)
    original.eval()
    batches = (
        batch.to_tensors()
        for epoch in count(hardening.seed)
        for batch in iterate_batches(
            rows, batch_size=hardening.batch_size, pad_token_id=pad_token_id, order="shuffled", seed=epoch
        )
    )
    for batch in islice(batches, hardening.steps):
        answer = twin(**batch)
        with torch.no_grad():
            wanted = original(**{name: x for name, x in batch.items() if name != "labels"}).logits
        pull = distillation_loss(answer.logits, wanted, _TEMPERATURE)
        loss = _LABELS_SHARE * answer.loss + (1 - _LABELS_SHARE) * pull
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        yield float(loss.detach())


def _read_rows(checkpoint: Checkpoint, path: Path) -> Encoded:
    task = find_task("text-classification")
    rows = task.load(path, columns={}, limit=None, require_labels=True)
    return task.encode(rows, tokenizer=checkpoint.tokenizer, config=checkpoint.model.config, require_labels=True)


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
    hardening = Hardening(factor=factor, steps=steps)
    task = find_task("text-classification")
    original, twin = (load_checkpoint(checkpoint, task) for _ in range(2))
    train, scored = _read_rows(twin, data), _read_rows(twin, evaluation)
    pad = int(twin.tokenizer.pad_token_id or 0)

    def score(model: PreTrainedModel) -> float:
        return score_rows(infer_with(model), scored, task, pad_token_id=pad).value

    found: dict[str, object] = {"original": score(original.model)}
    found["enlarged"] = enlarge_channels(twin.model, hardening.channels, factor, hardening.seed)
    with show_stages() as advance:
        for done, _ in enumerate(train_back(twin.model, original.model, train, hardening, pad), start=1):
            advance("train back", done, steps)
    found["twin"] = score(twin.model)
    inputs = {"checkpoint": checkpoint, "data": data}
    save_checkpoint(twin, out, stage="harden", inputs=inputs, facts={**asdict(hardening), **found})
    say(f"{out}: {found}")
    print_json({"out": str(out), **asdict(hardening), **found})


if __name__ == "__main__":
    typer.run(hard_twin_command)
