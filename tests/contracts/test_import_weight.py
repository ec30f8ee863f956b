"""What importing costs: the front door loads what from_pretrained needs, the left packages nothing of engines."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.contracts.source_tree import ROOT, product_modules

GRAPH_AND_ENGINES = ("onnx", "onnx_ir", "onnxscript", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx")
NOT_FOR_LOADING = ("datasets", "matplotlib", "sklearn", *GRAPH_AND_ENGINES)
WRITTEN_IN = {"qat.triton_kernels": "triton"}
"""Modules in the language of a package that is not installed everywhere; nothing imports them where it is not."""


def _loaded_after_importing(names: list[str], watched: tuple[str, ...]) -> set[str]:
    code = f"import sys, {', '.join(names)}; print(*sorted(set({watched!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_front_door_loads_only_what_from_pretrained_needs() -> None:
    assert _loaded_after_importing(["qdq"], NOT_FOR_LOADING) == set()


@pytest.mark.parametrize("package", ["qat", "calibration"])
def test_a_left_package_loads_no_graph_or_engine_library(package: str) -> None:
    modules = [module.name for module in product_modules() if module.package == package]
    names = [name for name in modules if find_spec(WRITTEN_IN.get(name, package))]

    assert _loaded_after_importing(names, GRAPH_AND_ENGINES) == set()


@pytest.mark.parametrize("package", ["export", "benchmarks"])
def test_a_right_package_loads_no_engine_that_may_be_missing(package: str) -> None:
    names = [module.name for module in product_modules() if module.package == package]

    assert _loaded_after_importing(names, ("openvino", "tensorrt", "tensorrt_rtx", "tritonclient")) == set()
