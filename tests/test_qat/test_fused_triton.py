"""The Triton kernels: bit by bit in the interpreter, compiled for GPUs that are not here, and where they cannot be."""

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from qat.errors import BuildError
from qat.fused_kernels import SOURCES, VARIABLE, find_kernels, load_kernels
from qat.fused_triton import OPTIONS, TritonKernels, open_triton_kernels
from tests.contracts.source_tree import ROOT

CHECKS = "tests/test_qat/triton_checks.py"
GPUS = {75: "*fp32", 80: "*fp16", 90: "*i16", 120: "*fp32"}
"""Turing to Blackwell, and how the values lie there; BF16 is handed over as INT16."""
ARGUMENTS: Mapping[str, Mapping[str, str]] = {
    "round_masked": {"x": "", "y": "", "mask": "*u8", "scale": "*fp32", "count": "i32"},
    "pass_masked": {"gradient": "", "mask": "*u8", "passed": "", "count": "i32"},
    "round_all": {"x": "", "y": "", "scale": "*fp32", "count": "i32"},
    "round_channels": {"x": "", "y": "", "scales": "*fp32", "count": "i32", "channels": "i32", "inner": "i32"},
    "learn": {"gradient": "", "x": "", "passed": "", "sums": "*fp32", "scale": "*fp32", "count": "i32"},
    "largest_bits": {"x": "", "found": "*i32", "inner": "i32", "parts": "i32"},
}
"""Of each kernel, as Triton writes types; those of values are left out."""


def run_checks(variables: Mapping[str, str]) -> None:
    """Runs ``CHECKS`` in a process of its own."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "QDQ_", "TRITON_"))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", CHECKS]
    done = subprocess.run(
        command, cwd=ROOT, env={**own, **variables}, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d\d passed in", done.stdout, re.MULTILINE), done.stdout


def test_in_the_interpreter_every_check_passes() -> None:
    pytest.importorskip("triton", reason="the kernels' language: pip install triton, for Linux only")
    run_checks({"TRITON_INTERPRET": "1"})


@pytest.mark.gpu
def test_on_the_gpu_every_check_passes() -> None:
    run_checks({})


@pytest.mark.parametrize("capability", GPUS)
def test_every_kernel_compiles_to_exact_arithmetic(
    capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    triton = pytest.importorskip("triton", reason="the kernels' language: pip install triton, for Linux only")
    from triton.backends.compiler import GPUTarget

    from qat import triton_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    divisions = set()
    for name, arguments in ARGUMENTS.items():
        signature = {each: kind or GPUS[capability] for each, kind in arguments.items()}
        source = triton.compiler.ASTSource(fn=getattr(triton_kernels, name), signature=signature)
        made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=dict(OPTIONS))
        assert len(made.asm["cubin"]) > 0
        divisions |= set(re.findall(r"\bdiv\.[\w.]*f32", made.asm["ptx"]))
        assert re.findall(r"\b[\w.]+\.ftz\b[\w.]*|\brcp\.[\w.]+", made.asm["ptx"]) == []
        assert "fma." not in made.asm["ptx"]
    assert divisions == {"div.rn.f32"}


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No kernels are loaded, before and after."""
    monkeypatch.delenv(VARIABLE, raising=False)
    load_kernels.cache_clear()
    yield
    load_kernels.cache_clear()


def test_without_triton_it_says_so_once(unloaded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert load_kernels("cuda") == {}
        assert load_kernels("cuda") == {}
    assert [str(each.message) for each in said] == [
        "fake quantization runs without its fused GPU kernel: import of triton halted; None in sys.modules. Install "
        "triton and the C compiler that it needs, or set QDQ_FUSED=off to say that this is fine"
    ]


def test_switched_off_it_says_nothing(unloaded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "off")
    monkeypatch.setitem(sys.modules, "triton", None)
    assert load_kernels("cuda") == {}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("first\nFailed to find C compiler."), "Failed to find C compiler."),
        (subprocess.CalledProcessError(1, "gcc"), "Command 'gcc' returned non-zero exit status 1."),
        (OSError(), "OSError"),
    ],
)
def test_a_compilation_that_fails_is_quoted(error: Exception, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="the kernels' language: pip install triton, for Linux only")

    def fail(*given: object) -> None:
        raise error

    monkeypatch.setattr(TritonKernels, "round_masked", fail)
    with pytest.raises(BuildError) as caught:
        open_triton_kernels("cpu")
    assert str(caught.value) == f"triton failed: {said}"


def test_a_tensor_gets_the_kernels_of_its_device(unloaded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = TritonKernels(ModuleType("nothing"))
    monkeypatch.setitem(SOURCES, "cuda", replace(SOURCES["cuda"], load=lambda: {torch.float16: kernels}))
    with FakeTensorMode():
        half, single = (torch.empty(1, dtype=dtype, device="cuda") for dtype in (torch.float16, torch.float32))
    assert find_kernels(half) is kernels
    assert find_kernels(single) is None
    assert find_kernels(torch.empty(1, device="meta")) is None
