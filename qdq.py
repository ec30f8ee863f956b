"""qdq: a BERT-family encoder checkpoint becomes an INT8 TensorRT engine, and the proof of what came out.

The public import: ``import qdq`` teaches transformers to load quantized folders and gives, lazily, what ``__all__``
lists. The command line: ``qdq --help`` or ``python -m qdq --help``.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.evaluate import benchmark, evaluate
    from calibration.calibrate import calibrate
    from export.compare import compare
    from export.engine import audit, build
    from export.exported import export
    from export.lint import lint
    from export.predict import Predictor, predict
    from export.runners.load import load_runner
    from qat.convert import convert
    from qat.finetune import finetune
    from qat.huggingface import QDQConfig, unwrap, wrap
    from qat.recipe import Recipe
    from qat.trainer import QATTrainer

__all__ = [
    "Predictor",
    "QATTrainer",
    "QDQConfig",
    "Recipe",
    "audit",
    "benchmark",
    "build",
    "calibrate",
    "compare",
    "convert",
    "evaluate",
    "export",
    "finetune",
    "lint",
    "load_runner",
    "predict",
    "unwrap",
    "wrap",
]

_HOMES = {
    "Predictor": "export.predict",
    "QATTrainer": "qat.trainer",
    "QDQConfig": "qat.huggingface",
    "Recipe": "qat.recipe",
    "audit": "export.engine",
    "benchmark": "benchmarks.evaluate",
    "build": "export.engine",
    "calibrate": "calibration.calibrate",
    "compare": "export.compare",
    "convert": "qat.convert",
    "evaluate": "benchmarks.evaluate",
    "export": "export.exported",
    "finetune": "qat.finetune",
    "lint": "export.lint",
    "load_runner": "export.runners.load",
    "predict": "export.predict",
    "unwrap": "qat.huggingface",
    "wrap": "qat.huggingface",
}
_PACKAGES = ("qat", "calibration", "export", "benchmarks")


def _find_intruder() -> str | None:
    """What shadows one of our packages, as the message a user gets; their names are ones a script may well have."""
    home = Path(__file__).resolve().parent
    for package in _PACKAGES:
        spec = find_spec(package)
        places = () if spec is None else (spec.origin, *(spec.submodule_search_locations or ()))
        found = [Path(place).resolve() for place in places if place]
        if found and not any(place in (home / package, home / package / "__init__.py") for place in found):
            intruder = found[0].parent if found[0].name == "__init__.py" else found[0]
            return (
                f"the folder or file {intruder} shadows qdq's own package '{package}': "
                "rename it or run qdq from another folder"
            )
    return None


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'qdq' has no attribute '{name}': it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def main() -> None:
    """Runs the command line and exits: 0 on success, 2 on a mistake with one line that says how to mend it."""
    import_module("benchmarks.command_line").run()


_INTRUDER = _find_intruder()
if _INTRUDER is not None:
    if __name__ == "__main__":
        sys.stderr.write(f"qdq: {_INTRUDER}\n")
        sys.exit(2)
    raise ImportError(_INTRUDER)

if __name__ == "__main__":
    main()

# from_pretrained only knows the method "qdq" once this is imported
import_module("qat.huggingface")
