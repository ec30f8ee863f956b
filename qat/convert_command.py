"""``qdq convert``: a checkpoint in any format becomes a Hugging Face folder that every tool reads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from qat.artefacts import atomic_folder, require_writable, write_manifest
from qat.checkpoint import Checkpoint, load_checkpoint, load_whole, save_checkpoint
from qat.checkpoints import find_format
from qat.checkpoints.base import list_names
from qat.checkpoints.flax import save_flax
from qat.console import print_json, print_table
from qat.errors import CheckpointError, suggest
from qat.options import CheckpointArgument, JsonOption, OutOption
from qat.quantizer import named_quantizers
from qat.tasks import find_task

Inputs = Mapping[str, Path]
Facts = Mapping[str, object]
HeadOption = Annotated[
    str | None, typer.Option("--task", help="Keep the head of this task; default: the one the checkpoint names.")
]


def _write_safetensors(loaded: Checkpoint, out: Path, inputs: Inputs, facts: Facts) -> None:
    save_checkpoint(loaded, out, stage="convert", inputs=inputs, facts=facts)


def _write_flax(loaded: Checkpoint, out: Path, inputs: Inputs, facts: Facts) -> None:
    with atomic_folder(out) as staging:
        save_flax(loaded.model, staging)
        loaded.tokenizer.save_pretrained(staging)
        write_manifest(staging, stage="convert", inputs=inputs, facts=facts)


WRITERS = {"safetensors": _write_safetensors, "flax": _write_flax}


def convert_command(
    checkpoint: CheckpointArgument,
    out: OutOption,
    task: HeadOption = None,
    to: Annotated[str, typer.Option("--to", help="What is written: safetensors or flax.")] = "safetensors",
    as_json: JsonOption = False,
) -> None:
    """Write a checkpoint of any format as a Hugging Face folder, in FP32.

    Example: qdq convert my-flax-albert --out my-albert
    Example: qdq convert my-albert --out my-flax-albert --to flax
    """
    if to not in WRITERS:
        raise CheckpointError(f"--to '{to}' is unknown: {suggest(to, WRITERS)}")
    require_writable(out)
    loaded = load_whole(checkpoint) if task is None else load_checkpoint(checkpoint, find_task(task))
    tensors = loaded.model.state_dict()
    facts: dict[str, object] = {
        "format": find_format(Path(checkpoint)).name,
        "model": type(loaded.model).__name__,
        "tensors": len(tensors),
        "values": sum(each.numel() for each in tensors.values()),
    }
    if loaded.quantization is not None:
        if task is not None and not loaded.quantization.task:
            loaded.quantization.task = {"name": task}
        quantizers = [each for _, each in named_quantizers(loaded.model)]
        facts |= {"recipe": loaded.quantization.recipe.name, "ranges": len(quantizers)}
        facts |= {"ranges left over": list_names(list(loaded.left_over)) or "none"}
    WRITERS[to](loaded, out, {"checkpoint": checkpoint}, {"convert": {**facts, "to": to}})
    print_table(str(out), tuple(facts), [tuple(facts.values())])
    if as_json:
        print_json({"out": str(out), **facts})
