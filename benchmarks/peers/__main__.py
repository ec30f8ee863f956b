"""Runs ``python -m benchmarks.peers``."""

from benchmarks.command_line import run
from benchmarks.peers.commands import app

if __name__ == "__main__":
    run(app, "python -m benchmarks.peers", default=())
