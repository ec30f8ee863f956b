"""The command line: every stage's commands under one name, and how a mistake ends."""

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import typer
from transformers.utils.logging import disable_progress_bar

from benchmarks.commands import benchmark_command, evaluate_command, run_command
from benchmarks.sensitivity_command import sensitivity_command
from calibration.commands import calibrate_command
from calibration.ranges_command import ranges_command
from export.commands import audit_command, build_command, export_command, lint_command
from export.deploy_command import deploy_command
from export.predict_command import predict_command
from qat.commands import finetune_command
from qat.console import show_controls
from qat.convert_command import convert_command
from qat.errors import QDQError
from qat.families_command import families_command
from qat.prune_command import prune_command

app = typer.Typer(
    name="qdq",
    pretty_exceptions_enable=False,
    help="Turn a BERT-family encoder checkpoint into an INT8 TensorRT engine, and prove what came out.",
)
app.command("run")(run_command)
app.command("calibrate")(calibrate_command)
app.command("convert")(convert_command)
app.command("prune")(prune_command)
app.command("ranges")(ranges_command)
app.command("finetune")(finetune_command)
app.command("export")(export_command)
app.command("build")(build_command)
app.command("audit")(audit_command)
app.command("lint")(lint_command)
app.command("deploy")(deploy_command)
app.command("evaluate")(evaluate_command)
app.command("predict")(predict_command)
app.command("benchmark")(benchmark_command)
app.command("sensitivity")(sensitivity_command)
app.command("families")(families_command)


_UsageError: type[Exception] = typer.BadParameter.__bases__[0]  # click's; some typer carry a click of their own
_INTERRUPTED = 130


def run(application: typer.Typer = app, name: str = "qdq", default: Sequence[str] = ("--help",)) -> NoReturn:
    """Runs the command of ``sys.argv`` and exits; a user's mistake becomes one line on standard error and code 2.

    Args:
        application: whose commands they are.
        name: what help and messages call it.
        default: what runs where nothing was given.
    """
    disable_progress_bar()  # transformers' own; ours say more
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


def _describe_usage(error: Any) -> str:
    place = "" if error.ctx is None else f" (see {error.ctx.command_path} --help)"
    return f"{error.format_message().rstrip('.')}{place}"


def _refuse(message: str) -> NoReturn:
    sys.stderr.write(f"qdq: {show_controls(' '.join(message.split()))}\n")
    sys.exit(2)
