"""Everything that needs an NVIDIA GPU: ``python -m benchmarks.gpu``, which ``make gpu`` runs."""

from benchmarks.command_line import run
from benchmarks.gpu_command import app

if __name__ == "__main__":
    run(app, "python -m benchmarks.gpu", default=())
