"""The verdict is arithmetic on the report, and it says "slower" where INT8 is slower."""

from typing import Any

import pytest

from benchmarks.verdict import (
    Kept,
    compare_speeds,
    describe_accuracy,
    describe_share,
    describe_speed,
    estimate_error,
    find_kept,
    select_headline,
)


def _row(runner: str, precision: str, p50_ms: float | None, batch: int = 1) -> dict[str, Any]:
    return {"runner": runner, "precision": precision, "batch": batch, "sequence": 128, "p50_ms": p50_ms}


@pytest.mark.parametrize(
    ("share", "n", "error"), [(0.5, 25, 0.1), (0.5, 100, 0.05), (0.8, 1600, 0.01), (1.0, 7, 0.0), (0, 7, 0.0)]
)
def test_the_standard_error_is_that_of_a_proportion(share: float, n: int, error: float) -> None:
    assert estimate_error("accuracy", share, n) == error


@pytest.mark.parametrize(
    ("metric", "value", "n"), [("f1", 0.8, 100), ("accuracy", None, 100), ("accuracy", 0.8, None), ("accuracy", 0.8, 0)]
)
def test_what_is_no_share_of_rows_has_no_standard_error(metric: str, value: object, n: object) -> None:
    assert estimate_error(metric, value, n) is None


@pytest.mark.parametrize(
    ("ladder", "stage"),
    [
        ({"fp32": 0.5, "ptq": 0.4, "qat": 0.45, "onnx": 0.44}, "onnx"),
        ({"fp32": 0.5, "ptq": 0.4, "qat": 0.45, "onnx": None}, "qat"),
        ({"fp32": 0.5, "ptq": 0.4}, "ptq"),
    ],
)
def test_the_last_measured_stage_counts(ladder: dict[str, Any], stage: str) -> None:
    kept = find_kept(ladder)

    assert kept is not None
    assert (kept.stage, kept.share) == (stage, ladder[stage] / 0.5)


@pytest.mark.parametrize("ladder", [{}, {"fp32": 0.5}, {"onnx": 0.5}, {"fp32": 0.0, "onnx": 0.5}])
def test_without_both_ends_nothing_is_claimed(ladder: dict[str, Any]) -> None:
    assert find_kept(ladder) is None
    assert describe_accuracy(ladder) == "accuracy against FP32 not measured"


def test_int8_stands_beside_the_fastest_float_of_its_own_runner() -> None:
    rows = [_row("ort", "fp32", 4.0), _row("ort", "fp16", 3.0), _row("torch", "fp32", 1.0), _row("ort", "int8", 2.0)]
    (speed,) = compare_speeds(rows)

    assert (speed.baseline, speed.ratio) == ("ort fp16", 1.5)


def test_without_a_float_of_its_own_it_stands_beside_any() -> None:
    rows = [_row("torch", "fp32", 8.0), _row("ort", "fp32", 4.0), _row("trt", "INT8+fp16", 2.0)]
    (speed,) = compare_speeds(rows)

    assert (speed.baseline, speed.ratio) == ("ort fp32", 2.0)


def test_samples_taken_in_alternation_are_compared_pair_by_pair() -> None:
    slow = {**_row("ort", "fp32", 4.0), "samples_ms": [4.0, 40.0, 4.0, 8.0]}
    fast = {**_row("ort", "int8", 2.0), "samples_ms": [2.0, 20.0, 1.0, 2.0]}
    (speed,) = compare_speeds([slow, fast])

    assert (speed.quartiles, speed.ratio, speed.spread) == ((2.0, 3.0, 4.0), 3.0, 1.0)


@pytest.mark.parametrize("samples", [None, "4.0", [2.0, 1.0, 2.0], [2.0] * 5, [2.0, None, 2.0, 2.0], [0.0] * 4])
def test_without_pairs_medians_are_compared_and_no_spread_is_known(samples: object) -> None:
    slow = {**_row("ort", "fp32", 4.0), "samples_ms": [4.0, 4.0, 4.0, 4.0]}
    (speed,) = compare_speeds([slow, {**_row("ort", "int8", 2.0), "samples_ms": samples}])

    assert (speed.ratio, speed.spread) == (2.0, None)


def test_the_paired_error_goes_with_what_is_kept() -> None:
    ladder = {"fp32": 0.8, "ptq": 0.79, "onnx": 0.78, "to_fp32": {"ptq": {"error": 0.1}, "onnx": {"error": 0.2}}}
    kept = find_kept(ladder)

    assert kept is not None
    assert kept.error == 0.2
    assert find_kept({"fp32": 0.8, "ptq": 0.79, "to_fp32": None}) == Kept(stage="ptq", value=0.79, fp32=0.8)


def test_shapes_are_never_mixed_and_missing_times_are_left_out() -> None:
    rows = [_row("ort", "fp32", 4.0, batch=8), _row("ort", "int8", 2.0, batch=1), _row("ort", "int8", None, batch=8)]

    assert compare_speeds(rows) == []


def test_fake_quantization_in_torch_is_no_int8() -> None:
    assert compare_speeds([_row("torch", "fp32", 4.0), _row("torch", "int8", 8.0)]) == []


def test_the_targets_runner_makes_the_headline() -> None:
    rows = [_row("ort", "fp32", 4.0), _row("ort", "int8", 2.0), _row("tensorrt", "int8+fp16", 1.0)]

    assert [speed.runner for speed in select_headline(compare_speeds(rows), "tensorrt")] == ["tensorrt"]
    assert [speed.runner for speed in select_headline(compare_speeds(rows), "openvino")] == ["ort"]


@pytest.mark.parametrize(
    ("int8", "said"),
    [
        ((5.0, 5.0), "INT8 is slower here: 0.80× the speed of ort fp32"),
        ((5.0, 2.0), "INT8 is slower here than ort fp32 at 1 of 2 shapes"),
        ((4.0, 4.0), "INT8 is no faster here than ort fp32"),
        ((2.0, 1.0), "2.00–4.00× the speed of ort fp32"),
    ],
)
def test_slower_is_said_plainly(int8: tuple[float, float], said: str) -> None:
    rows = [row for batch, ms in zip((1, 8), int8, strict=True) for row in _pair(batch, ms)]

    assert describe_speed(compare_speeds(rows)) == said


def _pair(batch: int, int8_ms: float) -> list[dict[str, Any]]:
    return [_row("ort", "fp32", 4.0, batch), _row("ort", "int8", int8_ms, batch)]


@pytest.mark.parametrize("engine", [{}, {"int8_mac_share": None}, {"int8_mac_share": 1.0, "audit": "unavailable: x"}])
def test_no_audit_is_never_a_pass(engine: dict[str, Any]) -> None:
    assert describe_share(engine) == "What runs in INT8 was not measured: nothing here proves that this model does."


def test_a_share_of_nothing_is_said() -> None:
    assert describe_share({"int8_mac_share": 0.0}) == "None of the encoder's multiply-accumulates run in INT8."
