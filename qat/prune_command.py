"""``qdq prune``: attention heads are taken out of a float checkpoint, by number or by what the loss needs least."""

from pathlib import Path
from typing import Annotated

import typer

from qat.artefacts import require_writable
from qat.batches import iterate_batches
from qat.checkpoint import Checkpoint, load_checkpoint, load_whole, require_float, save_checkpoint
from qat.console import print_json, print_table, show_progress
from qat.data import parse_columns
from qat.errors import DataError
from qat.head_importance import Scores, least_important, measure_importance
from qat.options import (
    BatchSizeOption,
    CheckpointArgument,
    ColumnsOption,
    JsonOption,
    LimitOption,
    MaxLengthOption,
    OutOption,
    TaskOption,
)
from qat.pruned_heads import Heads, present_heads, read_pruned_heads
from qat.structure import head_layers, prune
from qat.tasks import Task, find_task
from qat.tasks.base import Encoded

ROWS = 512


def prune_command(
    checkpoint: CheckpointArgument,
    out: OutOption,
    heads: Annotated[str | None, typer.Option("--heads", help="Heads by layer, from 0: '0:1,2;3:0'.")] = None,
    share: Annotated[float | None, typer.Option("--share", help="Share of all heads, the least important.")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Labelled rows that --share measures on.")] = None,
    task: TaskOption = None,
    columns: ColumnsOption = None,
    max_length: MaxLengthOption = None,
    batch_size: BatchSizeOption = 32,
    limit: LimitOption = ROWS,
    as_json: JsonOption = False,
) -> None:
    """Take attention heads out of a float checkpoint.

    Example: qdq prune my-bert --task text-classification --share 0.5 --data train.jsonl --out smaller
    Example: qdq prune my-bert --heads '0:1,2;3:0' --out smaller
    """
    if (heads is None) == (share is None):
        raise DataError("say which heads go: either --heads '0:1,2;3:0', or --share 0.5 with --data and --task")
    listed = None if heads is None else parse_heads(heads)
    found = None if task is None else find_task(task)
    loaded = load_whole(checkpoint) if found is None else load_checkpoint(checkpoint, found)
    require_float(loaded)
    require_writable(out)
    before = present_heads(loaded.model, head_layers(loaded.model))
    scores: Scores = []
    if share is not None:
        if data is None or found is None:
            raise DataError("--share measures what the loss needs: add --data with labelled rows, and --task")
        names = {} if columns is None else parse_columns(columns)
        rows = found.load(data, columns=names, limit=limit)
        encoded = found.encode(rows, tokenizer=loaded.tokenizer, config=loaded.model.config, max_length=max_length)
        scores = measure(loaded, found, encoded, batch_size)
        listed = least_important(loaded.model, scores, share)
    prune(loaded.model, listed or {})
    after = present_heads(loaded.model, head_layers(loaded.model))
    facts = {
        "pruned_heads": {str(layer): gone for layer, gone in read_pruned_heads(loaded.model.config).items()},
        "heads": sum(map(len, after)),
        "heads_before": sum(map(len, before)),
        "importance": scores,
    }
    inputs = {"checkpoint": checkpoint, **({} if data is None else {"data": data})}
    save_checkpoint(loaded, out, stage="prune", inputs=inputs, facts={"prune": facts})
    lines = [
        (number, ", ".join(str(head) for head in was if head not in left), len(left))
        for number, (was, left) in enumerate(zip(before, after, strict=True))
    ]
    print_table(str(out), ("layer", "heads taken out", "heads left"), lines)
    if as_json:
        print_json({"out": str(out), **facts})


def measure(loaded: Checkpoint, task: Task, rows: Encoded, batch_size: int) -> Scores:
    """The importance of every head on some rows, with progress shown."""
    pad = loaded.pad_token_id
    batches = iterate_batches(rows, batch_size=batch_size, pad_token_id=pad, order="length")
    with show_progress("measure heads") as advance:
        return measure_importance(
            loaded.model,
            (batch.to_tensors() for batch in batches),
            progress=lambda done: advance(done, len(rows)),
        )


def parse_heads(text: str) -> Heads:
    """Heads by layer, from ``LAYER:HEAD,HEAD;LAYER:HEAD``.

    Raises:
        DataError: it is not written that way, or names a layer twice.

    >>> parse_heads("0:1,2;3:0")
    {0: [1, 2], 3: [0]}
    """
    found: dict[int, list[int]] = {}
    for part in text.split(";"):
        layer, colon, heads = part.partition(":")
        numbers = [each.strip() for each in heads.split(",")]
        if not colon or not all(each.isdecimal() for each in (layer.strip(), *numbers)) or int(layer) in found:
            raise DataError(f"--heads {text!r} is not understood at {part!r}: write each layer once, as '0:1,2;3:0'")
        found[int(layer)] = [int(each) for each in numbers]
    return found
