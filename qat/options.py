"""The options several commands share, each spelled once."""

from pathlib import Path
from typing import Annotated

import typer

CheckpointArgument = Annotated[Path, typer.Argument(help="Folder of a fine-tuned checkpoint, in any format.")]
TaskOption = Annotated[str | None, typer.Option("--task", help="Task, as Hugging Face names it: text-classification.")]
DataOption = Annotated[Path, typer.Option("--data", help="Rows: .jsonl, .csv, .tsv, .parquet, or a hub name.")]
OutOption = Annotated[Path, typer.Option("--out", help="Where the result goes; replaced whole if it exists.")]
ColumnsOption = Annotated[
    str | None, typer.Option("--columns", help="The task's columns as the data calls them: text=sentence,label=class.")
]
MaxLengthOption = Annotated[
    int | None, typer.Option("--max-length", help="Tokens a row keeps; default: the most the checkpoint takes.")
]
BatchSizeOption = Annotated[int, typer.Option("--batch-size", min=1, help="Rows a batch.")]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="Read only the first rows of each file.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a setting: weights=per_channel, calibration.samples=1024, ..."),
]
RecipeOption = Annotated[
    str, typer.Option("--recipe", help="What is quantized: tensorrt, lean, qdqbert, linear, or a TOML file.")
]
TargetOption = Annotated[
    str, typer.Option("--target", help="rtx, tensorrt, onnxruntime or openvino; picks the weight granularity.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="End standard output with one JSON object.")]
