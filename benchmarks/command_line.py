"""The command line: every stage's commands under one name, and how a mistake ends."""

import sys

import typer

from benchmarks.commands import benchmark_command, evaluate_command, run_command
from calibration.commands import calibrate_command
from export.commands import audit_command, build_command, export_command, lint_command
from qat.commands import finetune_command
from qat.errors import QDQError

app = typer.Typer(
    name="qdq",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Turn a BERT-family encoder checkpoint into an INT8 TensorRT engine, and prove what came out.",
)
app.command("run")(run_command)
app.command("calibrate")(calibrate_command)
app.command("finetune")(finetune_command)
app.command("export")(export_command)
app.command("build")(build_command)
app.command("audit")(audit_command)
app.command("lint")(lint_command)
app.command("evaluate")(evaluate_command)
app.command("benchmark")(benchmark_command)


def run() -> None:
    """Runs the command of ``sys.argv``; a user's mistake becomes one line on standard error and exit code 2."""
    try:
        app()
    except QDQError as error:
        sys.stderr.write(f"qdq: {' '.join(str(error).split())}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("qdq: interrupted; artefacts that were finished are whole, the others were not written\n")
        sys.exit(130)
