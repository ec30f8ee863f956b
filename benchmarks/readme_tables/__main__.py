"""Runs ``python -m benchmarks.readme_tables``."""

from benchmarks.command_line import run
from benchmarks.readme_tables.tables_command import app

if __name__ == "__main__":
    run(app, "python -m benchmarks.readme_tables", default=())
