"""A page drawn anew from a report that was kept: ``python -m benchmarks.report_command report.json --out folder``."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.command_line import run
from benchmarks.report import write_report
from qat.console import say
from qat.errors import DataError

app = typer.Typer(name="report", pretty_exceptions_enable=False, help="A report's page, drawn anew.")


@app.command()
def report_command(
    report: Annotated[Path, typer.Argument(help="report.json of qdq run, or a journey among the results.")],
    out: Annotated[Path, typer.Option("--out", help="The folder for report.html and report.json.")],
) -> None:
    """Draw report.html from the facts of an earlier run.

    Example: python -m benchmarks.report_command runs/first/report.json --out runs/again
    """
    say(str(write_report(out, read_report(report))))


def read_report(path: Path) -> dict[str, Any]:
    """The facts of a report on disk.

    Raises:
        DataError: there is no such file, or it is no report.
    """
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"no file {path}: expected the report.json of qdq run; give its path") from error
    except ValueError as error:
        raise DataError(f"{path} is no JSON ({error}): expected the report.json of qdq run; give its path") from error
    if not isinstance(facts, dict) or "accuracy" not in facts:
        raise DataError(f"{path} is no report: expected the report.json of qdq run, which has an 'accuracy'")
    return facts


if __name__ == "__main__":
    run(app, "python -m benchmarks.report_command", default=())
