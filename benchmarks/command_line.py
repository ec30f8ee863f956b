"""The command line: every stage's commands under one name, and how a mistake ends.

A command's module is imported when it is called: torch and transformers take seconds, which help, completion and a
mistyped name need not wait for.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from qat.console import show_controls
from qat.errors import QDQError


@dataclass(frozen=True, slots=True)
class CommandHome:
    """Where a command is defined, as ``module:function``, and the first line of its help."""

    place: str
    summary: str


COMMANDS = {
    "run": CommandHome(
        "benchmarks.commands:run_command",
        "The whole journey: calibrate, fine-tune, export, build, measure, report.",
    ),
    "calibrate": CommandHome(
        "calibration.commands:calibrate_command",
        "Fill every quantizer's range from real rows; or, without data, choose among those that --method all kept.",
    ),
    "convert": CommandHome(
        "qat.convert_command:convert_command",
        "Write a checkpoint of any format as a Hugging Face folder, in FP32.",
    ),
    "prune": CommandHome(
        "qat.prune_command:prune_command",
        "Take attention heads out of a float checkpoint.",
    ),
    "ranges": CommandHome(
        "calibration.ranges_command:ranges_command",
        "List a calibrated folder's ranges, compare them with another's, or edit them into a new folder.",
    ),
    "finetune": CommandHome(
        "qat.commands:finetune_command",
        "Train a calibrated checkpoint on, quantizers in place.",
    ),
    "export": CommandHome(
        "export.commands:export_command",
        "Lower a calibrated checkpoint to a Q/DQ ONNX graph.",
    ),
    "build": CommandHome(
        "export.commands:build_command",
        "Build the engine of an exported folder and audit it; one that is up to date is kept.",
    ),
    "audit": CommandHome(
        "export.commands:audit_command",
        "Tell what really runs in INT8, and why the rest does not.",
    ),
    "lint": CommandHome(
        "export.commands:lint_command",
        "Check any ONNX graph against the rules of its engine; exits 1 where it breaks one.",
    ),
    "deploy": CommandHome(
        "export.deploy_command:deploy_command",
        "Write a Triton Inference Server model repository, or check one before it is served.",
    ),
    "evaluate": CommandHome(
        "benchmarks.commands:evaluate_command",
        "Score an artefact on labelled rows, or embeddings by those of the float checkpoint.",
    ),
    "predict": CommandHome(
        "export.predict_command:predict_command",
        "Answer texts: labels, spans, entities, choices, filled masks, vectors or how they go on, "
        "one JSON object a row.",
    ),
    "benchmark": CommandHome(
        "benchmarks.commands:benchmark_command",
        "Time artefacts side by side on real tokens.",
    ),
    "sensitivity": CommandHome(
        "benchmarks.sensitivity_command:sensitivity_command",
        "Measure which quantizers harm a calibrated checkpoint, and what each is worth to the engine.",
    ),
    "families": CommandHome(
        "qat.families_command:families_command",
        "List the model families and the heads of each that can be quantized.",
    ),
}


def load_command(name: str) -> Any:
    """The click command of that name, its module imported."""
    module, _, function = COMMANDS[name].place.partition(":")
    _silence_transformers()
    alone = typer.Typer(add_completion=False)
    alone.command(name)(getattr(import_module(module), function))
    return typer.main.get_command(alone)


class _CommandGroup(TyperGroup):
    """Lists the commands by their summaries and loads the one that is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, _, rest = super().resolve_command(ctx, args)
        return name, None if name is None else load_command(name), rest  # completion asks for names nobody has


app = typer.Typer(
    name="qdq",
    cls=_CommandGroup,
    pretty_exceptions_enable=False,
    help="Turn a BERT-family encoder checkpoint into an INT8 TensorRT engine, and prove what came out.",
)


def _stand_in() -> None:
    """What is listed until ``load_command`` takes its place."""


for _name, _home in COMMANDS.items():
    app.command(_name, help=_home.summary)(_stand_in)


_UsageError: type[Exception] = typer.BadParameter.__bases__[0]  # click's; some typer carry a click of their own
_INTERRUPTED = 130


def run(application: typer.Typer = app, name: str = "qdq", default: Sequence[str] = ("--help",)) -> NoReturn:
    """Runs the command of ``sys.argv`` and exits; a user's mistake becomes one line on standard error and code 2.

    Args:
        application: whose commands they are.
        name: what help and messages call it.
        default: what runs where nothing was given.
    """
    if application is not app:
        _silence_transformers()
    try:
        code = application(args=sys.argv[1:] or list(default), prog_name=name, standalone_mode=False)
    except QDQError as error:
        _refuse(str(error))
    except _UsageError as error:
        _refuse(_describe_usage(error))
    except OSError as error:  # a path too long, a folder that may not be entered, a full disk
        _refuse(f"{error.filename or 'the system'}: {error.strerror or error}; give another path, or make it usable")
    if code == _INTERRUPTED:
        sys.stderr.write("qdq: interrupted; artefacts that were finished are whole, the others were not written\n")
    sys.exit(code)


def _silence_transformers() -> None:
    import_module("transformers.utils.logging").disable_progress_bar()  # ours say more


def _describe_usage(error: Any) -> str:
    place = "" if error.ctx is None else f" (see {error.ctx.command_path} --help)"
    return f"{error.format_message().rstrip('.')}{place}"


def _refuse(message: str) -> NoReturn:
    sys.stderr.write(f"qdq: {show_controls(' '.join(message.split()))}\n")
    sys.exit(2)
