"""How many texts a second one machine answers: ``python -m benchmarks.throughput``."""

from benchmarks.command_line import run
from benchmarks.throughput_command import app

if __name__ == "__main__":
    run(app, "python -m benchmarks.throughput", default=())
