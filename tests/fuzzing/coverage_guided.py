"""Coverage-guided fuzzing of one target by atheris, which the project does not depend on.

    python -m tests.fuzzing.coverage_guided recipes -runs=100000

What follows the name of a target are libFuzzer's options (``-runs``, ``-max_total_time``, a folder of inputs, a
file to feed once). A fault ends the run with its traceback, and its input lies in ``runs/fuzz/``. Atheris 3.0 has
wheels for CPython 3.11 to 3.13 on x86-64 Linux and no others, so it is nobody's dependency.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from tests.fuzzing.target import FuzzTarget

PARTS = ("qat", "calibration", "export", "command_line")
"""The modules ``<part>_targets`` beside this one."""

_FOUND = Path("runs/fuzz")
_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "NO_COLOR": "1"}
_LIMITS = ("-timeout=60", "-rss_limit_mb=6000", "-print_final_stats=1", f"-artifact_prefix={_FOUND}/")


def load_fuzzer() -> Any:
    """The package atheris.

    Raises:
        SystemExit: it is not installed.
    """
    try:
        return importlib.import_module("atheris")
    except ImportError as error:
        raise SystemExit(
            f"coverage-guided fuzzing needs the package atheris, which cannot be imported ({error}): pip install "
            "atheris (CPython 3.11 to 3.13 on x86-64 Linux), or run make soak, which needs nothing more"
        ) from error


def find_target(name: str) -> FuzzTarget:
    """The target of that name.

    Raises:
        SystemExit: there is none.
    """
    modules = [importlib.import_module(f"tests.fuzzing.{part}_targets") for part in PARTS]
    targets: dict[str, FuzzTarget] = {target.name: target for module in modules for target in module.TARGETS}
    if name not in targets:
        raise SystemExit(f"no target '{name}': known: {', '.join(targets)}")
    return targets[name]


def fuzz(name: str, options: Sequence[str], folder: Path) -> None:
    """Feeds a target until libFuzzer ends the process, which it does by itself.

    Raises:
        SystemExit: no such target, or no atheris.
    """
    atheris = load_fuzzer()
    with atheris.instrument_imports(include=["qat", "calibration", "export", "tomllib"]):
        target = find_target(name)
    seeds, scratch = folder / "seeds", folder / "scratch"
    for made in (seeds, scratch, _FOUND):
        made.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(target.corpus()):
        (seeds / str(number)).write_bytes(data)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        chance = Random(seed)
        if chance.random() < 0.5:
            return bytes(atheris.Mutate(data, most))
        return next(chance.choice(target.mutations)([data], seed), data)[:most]

    files = [option for option in options if not option.startswith("-")]
    places = () if any(Path(each).is_file() for each in files) else (str(seeds),)
    atheris.Setup(["fuzz", *_LIMITS, *options, *places], lambda data: target.feed(data, scratch), custom_mutator=mutate)
    atheris.Fuzz()


def main(arguments: Sequence[str]) -> None:
    """Fuzzes the target that the first argument names."""
    os.environ.update(_OFFLINE)
    with TemporaryDirectory(prefix="qdq-fuzz-") as folder:
        fuzz(arguments[0] if arguments else "", arguments[1:], Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
