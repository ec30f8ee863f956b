"""Coverage-guided fuzzing of one target by atheris, which the project does not depend on.

    python -m tests.fuzzing.coverage_guided recipes -runs=100000

What follows the name of a target are libFuzzer's options (``-runs``, ``-max_total_time``, a folder to keep inputs
in). Atheris 3.0 has wheels for CPython 3.11 to 3.13 on x86-64 Linux only: ``pip install atheris`` where those are.
A fault ends the run with its traceback and leaves the input in a file ``crash-...``, which, given as the only
option, is fed once more.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

PARTS = ("qat", "calibration", "export", "command_line")
"""The modules ``<part>_targets`` beside this one."""

_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "NO_COLOR": "1"}
_LIMITS = ("-timeout=20", "-rss_limit_mb=6000", "-print_final_stats=1")


def fuzz(name: str, options: Sequence[str], folder: Path) -> None:
    """Runs a target until libFuzzer ends the process, which it does by itself.

    Raises:
        SystemExit: no such target.
    """
    import atheris

    with atheris.instrument_imports(include=["qat", "calibration", "export", "tomllib"]):
        modules = [importlib.import_module(f"tests.fuzzing.{part}_targets") for part in PARTS]
    targets = {target.name: target for module in modules for target in module.TARGETS}
    if name not in targets:
        raise SystemExit(f"no target '{name}': known: {', '.join(targets)}")
    target = targets[name]
    seeds, scratch = folder / "seeds", folder / "scratch"
    for made in (seeds, scratch):
        made.mkdir()
    for number, data in enumerate(target.corpus()):
        (seeds / str(number)).write_bytes(data)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        chance = Random(seed)
        if chance.random() < 0.5:
            return bytes(atheris.Mutate(data, most))
        return next(chance.choice(target.mutations)([data], seed), data)[:most]

    arguments = ["fuzz", *_LIMITS, *options, str(seeds)]
    atheris.Setup(arguments, lambda data: target.feed(data, scratch), custom_mutator=mutate)
    atheris.Fuzz()


def main(arguments: Sequence[str]) -> None:
    """Fuzzes the target that the arguments name."""
    os.environ.update(_OFFLINE)
    with TemporaryDirectory(prefix="qdq-fuzz-") as folder:
        fuzz(arguments[0] if arguments else "", arguments[1:], Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
