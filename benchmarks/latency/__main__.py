"""Runs ``python -m benchmarks.latency``."""

from benchmarks.command_line import run
from benchmarks.latency.latency_command import app

if __name__ == "__main__":
    run(app, "python -m benchmarks.latency", default=())
