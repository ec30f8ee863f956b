"""``qdq convert``: a checkpoint in any format becomes a Hugging Face folder that every tool reads."""

from pathlib import Path
from typing import Annotated

import typer

from qat.artefacts import require_writable
from qat.checkpoint import load_checkpoint, load_whole, save_checkpoint, save_pretrained
from qat.checkpoints import find_format
from qat.checkpoints.base import list_names
from qat.checkpoints.flax import save_flax
from qat.console import print_json, print_table
from qat.errors import CheckpointError, suggest
from qat.options import CheckpointArgument, JsonOption, OutOption
from qat.quantizer import named_quantizers
from qat.tasks import find_task

WRITERS = {"safetensors": save_pretrained, "flax": save_flax}

HeadOption = Annotated[
    str | None, typer.Option("--task", help="Keep the head of this task; default: the one the checkpoint names.")
]


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
    save_checkpoint(
        loaded,
        out,
        stage="convert",
        inputs={"checkpoint": checkpoint},
        facts={"convert": {**facts, "to": to}},
        save_model=WRITERS[to],
    )
    print_table(str(out), tuple(facts), [tuple(facts.values())])
    if as_json:
        print_json({"out": str(out), **facts})
