"""What a step of quantization-aware training costs beside a float one: ``python -m benchmarks.qat_step``.

A step is a forward pass, a backward pass and one of AdamW (``benchmarks.training_step``).
"""

from benchmarks.command_line import run
from benchmarks.qat_step_command import app

if __name__ == "__main__":
    run(app, "python -m benchmarks.qat_step", default=())
