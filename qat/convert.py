"""A checkpoint in any format, written as a Hugging Face folder that every tool reads."""

from collections.abc import Mapping
from pathlib import Path

from qat.artefacts import atomic_folder, require_writable, write_manifest
from qat.checkpoint import Checkpoint, load_checkpoint, load_whole, save_checkpoint
from qat.checkpoints import find_format
from qat.checkpoints.base import list_names
from qat.checkpoints.flax import save_flax
from qat.errors import CheckpointError, suggest
from qat.quantizer import named_quantizers
from qat.tasks import find_task

Inputs = Mapping[str, Path]
Facts = dict[str, object]


def _write_safetensors(loaded: Checkpoint, out: Path, inputs: Inputs, facts: Facts) -> None:
    save_checkpoint(loaded, out, stage="convert", inputs=inputs, facts=facts)


def _write_flax(loaded: Checkpoint, out: Path, inputs: Inputs, facts: Facts) -> None:
    with atomic_folder(out) as staging:
        save_flax(loaded.model, staging)
        loaded.tokenizer.save_pretrained(staging)
        write_manifest(staging, stage="convert", inputs=inputs, facts=facts)


WRITERS = {"safetensors": _write_safetensors, "flax": _write_flax}


def convert(checkpoint: Path | str, out: Path | str, *, task: str | None = None, to: str = "safetensors") -> Facts:
    """What was read, of a checkpoint of any format that is then written to ``out`` in FP32.

    Args:
        checkpoint: its folder.
        out: a folder to make, or to replace as a whole.
        task: whose head is kept; None for the one the checkpoint names.
        to: ``safetensors``, which ``from_pretrained`` reads, or ``flax``.

    Raises:
        CheckpointError: no such format, or a checkpoint that cannot be read whole.
        OutputError: ``out`` cannot be written.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    if to not in WRITERS:
        raise CheckpointError(f"--to '{to}' is unknown: {suggest(to, WRITERS)}")
    require_writable(out)
    loaded = load_whole(checkpoint) if task is None else load_checkpoint(checkpoint, find_task(task))
    tensors = loaded.model.state_dict()
    facts: Facts = {
        "format": find_format(checkpoint).name,
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
    return facts
