"""Fused kernels beside the composed operator, timed once they agree: the CPU's kernels in a GPU's place."""

import shutil

import pytest
import torch
from torch import Tensor

from benchmarks.gpu_kernels import CASES, KernelCase, measure_kernels
from qat.errors import BuildError
from qat.fused_cpu import CpuKernels
from qat.fused_kernels import composed_only

SMALL = (KernelCase("hidden state", (2, 5, 8)), KernelCase("weight", (6, 4), 0))
needs_a_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "c++"))), reason="the CPU's kernels need a C++ compiler"
)


@needs_a_compiler
def test_equal_kernels_are_timed_in_every_dtype_they_have() -> None:
    found = measure_kernels(torch.device("cpu"), 4, SMALL)
    assert found["same_bits"] == 4
    assert [(row["case"], row["dtype"]) for row in found["milliseconds"]] == [
        ("hidden state", "float32"), ("hidden state", "bfloat16"), ("weight", "float32"), ("weight", "bfloat16")
    ]  # fmt: skip
    assert all(row["fused"] > 0 < row["composed"] for row in found["milliseconds"])


@needs_a_compiler
def test_kernels_that_answer_otherwise_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def forget(kernels: CpuKernels, gradient: Tensor, mask: Tensor) -> Tensor:
        return gradient

    monkeypatch.setattr(CpuKernels, "pass_masked", forget)
    with pytest.raises(BuildError) as caught:
        measure_kernels(torch.device("cpu"), 4, SMALL)
    assert str(caught.value) == (
        "the fused kernels and the composed operator differ: hidden state in float32, hidden state in bfloat16"
    )


def test_a_device_without_kernels_is_an_error() -> None:
    with composed_only(), pytest.raises(BuildError) as caught:
        measure_kernels(torch.device("cpu"), 4, SMALL)
    assert str(caught.value) == (
        "no fused kernels for this device: see the warning above, and unset QDQ_FUSED if it is off"
    )


@pytest.mark.gpu
def test_on_a_gpu_the_kernels_agree_with_the_composed_operator() -> None:
    assert measure_kernels(torch.device("cuda"), 4)["same_bits"] == 3 * len(CASES)
