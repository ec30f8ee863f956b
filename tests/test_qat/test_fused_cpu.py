"""The fused kernels against the composed operator, bit by bit, and what happens where there is no compiler."""

import shutil
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from qat import fused_cpu
from qat.errors import BuildError
from qat.fake_quant import fake_quantize, fake_quantize_within, largest_magnitude
from qat.fused_cpu import SOURCE, build_library, cache_folder
from qat.fused_kernels import VARIABLE, composed_only, find_kernels, load_kernels
from tests import tolerances
from tests.test_qat.fused_cases import (
    DTYPES,
    LAYOUTS,
    SHAPES,
    learn,
    make_values,
    same_bits,
    train,
    watching_saved_tensors,
)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_scale_gives_the_same_bits_forward_and_backward(dtype: torch.dtype, layout: str) -> None:
    scale = torch.tensor(0.0005)
    for shape in SHAPES:
        x = LAYOUTS[layout](make_values(shape, dtype))
        upstream = torch.randn(x.shape).to(dtype)
        fused = (fake_quantize(x, scale, None), *train(x, scale, upstream), *learn(x, scale, upstream)[:2])
        with composed_only():
            composed = (fake_quantize(x, scale, None), *train(x, scale, upstream), *learn(x, scale, upstream)[:2])
        assert all(same_bits(one, other) for one, other in zip(fused, composed, strict=True)), shape


@pytest.mark.parametrize("dtype", DTYPES)
def test_channels_give_the_same_bits(dtype: torch.dtype) -> None:
    for shape in SHAPES[:1] + SHAPES[3:]:
        x = make_values(shape, dtype)
        for axis in range(-1, x.dim()):
            scale = torch.rand(shape[axis]) * 0.001 + 0.0002
            answers = fake_quantize(x, scale, axis), fake_quantize_within(x.requires_grad_(), scale, axis).detach()
            with composed_only():
                expected = fake_quantize(x.detach(), scale, axis)
            assert all(same_bits(answer.detach(), expected) for answer in answers)
            x = x.detach()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_magnitude_is_the_same(dtype: torch.dtype) -> None:
    for x in (torch.randn(70, 33).to(dtype), torch.full((2, 3), -0.0).to(dtype), make_values((5, 40), dtype)):
        for axis in (None, 0, 1):
            fused = largest_magnitude(x, axis)
            with composed_only():
                assert same_bits(fused, largest_magnitude(x, axis))


def test_a_learned_scale_gets_the_same_gradient_but_for_the_order_of_the_sum() -> None:
    scale = torch.tensor(0.0005)
    for dtype in (torch.float32, torch.bfloat16):
        x, upstream = (torch.randn(300, 257) * 0.05).to(dtype), torch.randn(300, 257).to(dtype)
        fused = learn(x, scale, upstream)[2]
        with composed_only():
            composed = learn(x, scale, upstream)[2]
        largest = 128.0 * float(upstream.float().abs().sum())
        assert abs(float(fused - composed)) <= tolerances.SCALE_GRADIENT.value * largest


def test_a_mask_made_by_one_is_read_by_the_other() -> None:
    x, scale = make_values((5, 13), torch.float32), torch.tensor(0.0005)
    expected = train(x, scale, torch.ones(5, 13))[1]
    leaf = x.requires_grad_()
    y = fake_quantize(leaf, scale, None)
    with composed_only():
        y.backward(torch.ones(5, 13))
    assert leaf.grad is not None
    assert same_bits(leaf.grad, expected)


def test_training_keeps_one_bit_a_value() -> None:
    x = torch.randn(4, 100, requires_grad=True)
    with watching_saved_tensors() as kept:
        fake_quantize(x, torch.tensor(0.01), None)
    assert [(each.dtype, each.numel()) for each in kept] == [(torch.uint8, 50)]


def test_a_range_that_covers_all_keeps_nothing_and_passes_the_gradient() -> None:
    x = torch.randn(4, 100, requires_grad=True)
    with watching_saved_tensors() as kept:
        y = fake_quantize_within(x, torch.tensor(0.1), None)
    upstream = torch.randn(4, 100)
    y.backward(upstream)
    assert kept == []
    assert x.grad is not None
    assert torch.equal(x.grad, upstream)


@pytest.fixture
def unloaded() -> Iterator[None]:
    """No library is loaded, before and after."""
    load_kernels.cache_clear()
    yield
    load_kernels.cache_clear()


def test_without_a_compiler_it_says_so_once(unloaded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert find_kernels(torch.ones(1)) is None
        assert find_kernels(torch.ones(1)) is None
    assert [str(each.message) for each in said] == [
        "fake quantization runs without its fused CPU kernel, several times slower: no C++ compiler found. Install g++ "
        "(or name a compiler in CXX), or set QDQ_FUSED=off to say that this is fine"
    ]


def test_switched_off_it_says_nothing(unloaded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "off")
    monkeypatch.setenv("PATH", "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_kernels(torch.ones(1)) is None


@pytest.mark.parametrize(
    ("script", "said"),
    [("echo first; echo 'no such header' >&2; exit 1", "no such header"), ("exit 1", "it said nothing")],
)
def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(
    script: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text(f"#!/bin/sh\n{script}\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(BuildError) as caught:
        build_library(tmp_path / "cache")
    assert str(caught.value) == f"{compiler} failed: {said}"
    assert list((tmp_path / "cache").iterdir()) == []


def test_several_builds_at_once_leave_one_whole_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text(
        '#!/bin/sh\nfor last; do test "$before" = -o && out=$last; before=$last; done\necho all > $out\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: build_library(tmp_path / "cache"), range(4)))
    assert list((tmp_path / "cache").iterdir()) == list(found)
    assert found.pop().read_text() == "all\n"


def test_the_name_of_a_library_depends_on_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", shutil.which("true") or "true")
    changed = tmp_path / "changed.cpp"
    changed.write_text(SOURCE.read_text() + "\n")
    with pytest.raises(OSError, match=r"fake_quantize-\w+\.so") as first:
        build_library(tmp_path)
    monkeypatch.setattr(fused_cpu, "SOURCE", changed)
    with pytest.raises(OSError, match=r"fake_quantize-\w+\.so") as second:
        build_library(tmp_path)
    assert Path(first.value.filename).name != Path(second.value.filename).name


def test_libraries_lie_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "qdq"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "qdq"
