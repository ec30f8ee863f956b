"""What QAT recovers: ``python -m benchmarks.qat CHECKPOINT --task T --data FILE --eval FILE --out FOLDER``.

Each column under each seed is a cell with a file of its own: a table that was interrupted goes on where it stopped.
Beside the quantized columns stand the controls: the float checkpoint, and the same trained on as long, with and without
the same teacher. What a column recovers is stated against the best of the three.
"""

import typer

from benchmarks.qat_command import qat_command

if __name__ == "__main__":
    typer.run(qat_command)
