"""``qdq convert``: a checkpoint in any format becomes a Hugging Face folder that every tool reads."""

from typing import Annotated

import typer

from qat.console import print_json, print_table, show_progress
from qat.convert import convert
from qat.options import CheckpointArgument, JsonOption, OutOption

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
    with show_progress("convert"):
        facts = convert(checkpoint, out, task=task, to=to)
    print_table(str(out), tuple(facts), [tuple(facts.values())])
    if as_json:
        print_json({"out": str(out), **facts})
