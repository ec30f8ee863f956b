"""The fake-quantize operator, and the counting of magnitudes, as one pass over memory on the CPU.

They need a C++ compiler: ``fused_cpu.cpp`` is compiled once, when a tensor first needs it, into ``qdq/`` of the user's
cache folder (``XDG_CACHE_HOME`` or ``~/.cache``), under a name made of everything the result depends on; a finished
library is put in place by a rename, so that processes may compile side by side.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from qat.errors import BuildError

SOURCE = Path(__file__).with_name("fused_cpu.cpp")

_VECTORS = {
    "AVX512": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c", "-mprefer-vector-width=512"),
    "AVX2": ("-mavx2", "-mfma", "-mf16c"),
}
"""Compiler flags by what torch says the CPU can do; a cache folder may be shared by several machines."""

_FLAGS = ("-std=c++17", "-O3", "-fopenmp", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
_SECONDS = 300
_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
_POINTER, _INT = ctypes.c_void_p, ctypes.c_int64
_SIGNATURES = {
    "round_masked": (None, (_POINTER, _POINTER, _POINTER, _INT, _POINTER)),
    "round_rows": (None, (_POINTER, _POINTER, _POINTER, _INT, _INT, _INT)),
    "amax_rows": (None, (_POINTER, _POINTER, _INT, _INT)),
    "pass_masked": (None, (_POINTER, _POINTER, _POINTER, _INT)),
    "count_rows": (ctypes.c_float, (_POINTER, _POINTER, _INT, _INT, _POINTER, _POINTER)),
    "learn": (ctypes.c_double, (_POINTER, _POINTER, _POINTER, _INT, _POINTER)),
}


@dataclass(frozen=True, slots=True)
class CpuKernels:
    """The compiled functions for one dtype; every tensor is contiguous, every mask of ``ceil(numel / 8)`` bytes."""

    library: ctypes.CDLL
    dtype: str

    def round_masked(self, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` rounded to steps of one scale, and the mask of what lay inside."""
        y, mask = torch.empty_like(x), torch.empty((x.numel() + 7) // 8, dtype=torch.uint8)
        self._call("round_masked", x.data_ptr(), y.data_ptr(), mask.data_ptr(), x.numel(), scale.data_ptr())
        return y, mask

    def round_rows(self, x: Tensor, scale: Tensor, axis: int | None) -> Tensor:
        """``x`` rounded to steps of one scale, or of one for each index of ``axis``."""
        y = torch.empty_like(x)
        rows, inner = (1, x.numel()) if axis is None else _rows_along(x, axis)
        steps = scale.contiguous()
        self._call("round_rows", x.data_ptr(), y.data_ptr(), steps.data_ptr(), rows, steps.numel(), inner)
        return y

    def amax(self, x: Tensor, axis: int | None) -> Tensor:
        """The largest magnitude of ``x``, or of each index of its first axis, in FP32; NaN where there is one."""
        rows, inner = (1, x.numel()) if axis is None else _rows_along(x, axis)
        found = torch.empty(rows)
        self._call("amax_rows", x.data_ptr(), found.data_ptr(), rows, inner)
        return found

    def pass_masked(self, gradient: Tensor, mask: Tensor) -> Tensor:
        """``gradient`` where the mask is set, times zero elsewhere."""
        passed = torch.empty_like(gradient)
        self._call("pass_masked", gradient.data_ptr(), mask.data_ptr(), passed.data_ptr(), gradient.numel())
        return passed

    def learn(self, gradient: Tensor, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of ``x`` and that of its one scale."""
        passed = torch.empty_like(gradient)
        found = self._call("learn", gradient.data_ptr(), x.data_ptr(), passed.data_ptr(), x.numel(), scale.data_ptr())
        return passed, torch.tensor(found, dtype=torch.float32)

    def count_rows(self, x: Tensor, rows: Tensor | None, counts: Tensor, peaks: Tensor) -> float:
        """The largest magnitude of some rows of ``x``; NaN where there is one.

        Args:
            x: ``(rows, columns)``.
            rows: the numbers of those that count, None for all.
            counts: by the bits of the nearest FP16 magnitude, ``(32768,)``; added to in place.
            peaks: the largest such bits of each column, ``(columns,)`` as INT16; raised in place.
        """
        listed = (0, len(x)) if rows is None else (rows.data_ptr(), len(rows))
        return self._call("count_rows", x.data_ptr(), *listed, x.shape[1], counts.data_ptr(), peaks.data_ptr())

    def _call(self, name: str, *arguments: int) -> float:
        found: float = getattr(self.library, f"{name}_{self.dtype}")(*arguments)
        return found


def _rows_along(x: Tensor, axis: int) -> tuple[int, int]:
    """How many rows of values that share an index of ``axis`` a contiguous ``x`` has, and how long they are."""
    after = axis % x.dim() + 1
    return x.shape[:after].numel(), x.shape[after:].numel()


def open_cpu_kernels() -> Mapping[torch.dtype, CpuKernels]:
    """The kernels of each dtype, compiled first where the cache has none.

    Raises:
        BuildError: no compiler, or one that fails; the last line it wrote.
        OSError: the cache cannot be written, or its library not loaded.
    """
    library = _open(build_library(cache_folder()))
    return {dtype: CpuKernels(library, name) for dtype, name in _NAMES.items()}


def cache_folder() -> Path:
    """Where compiled libraries lie."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "qdq"


def build_library(folder: Path) -> Path:
    """The library in ``folder``, which is compiled if it is not there.

    Raises:
        BuildError: no compiler, or one that fails; the last line it wrote.
        OSError: the folder cannot be written.
    """
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        raise BuildError("no C++ compiler found")
    capability = torch.backends.cpu.get_cpu_capability()
    torch_folder = Path(torch.__file__).parent
    flags = (*_FLAGS, *_VECTORS.get(capability, ()), f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}")
    parts = (SOURCE.read_text(encoding="utf-8"), torch.__version__, str(torch_folder), compiler, *flags)
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    library = folder / f"fake_quantize-{key}.so"
    if library.is_file():
        return library
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="build-") as scratch:
        made = Path(scratch) / library.name
        places = (f"-I{torch_folder / 'include'}", f"-L{torch_folder / 'lib'}", "-ltorch_cpu", "-lc10")
        _compile([compiler, *flags, "-shared", "-fPIC", str(SOURCE), "-o", str(made), *places])
        made.replace(library)
    return library


def _compile(command: list[str]) -> None:
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{command[0]} was stopped after {_SECONDS} seconds") from error
    if done.returncode:
        said = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        raise BuildError(f"{command[0]} failed: {said}")


def _open(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    for name, (result, arguments) in _SIGNATURES.items():
        for dtype in _NAMES.values():
            function = getattr(library, f"{name}_{dtype}")
            function.restype, function.argtypes = result, arguments
    return library
