"""What a report comes to: the accuracy kept, the speed against float, and both in words."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

PROPORTIONS = frozenset({"accuracy", "exact_match"})
"""The metrics that are a share of independent rows, so that their standard error is sqrt(p (1 - p) / n)."""

LADDER = ("fp32", "ptq", "qat", "onnx")
"""The stages of the accuracy ladder, in the order a checkpoint passes them."""

_FEWEST_PAIRS = 4

_SIMULATOR = "torch"
"""The runner that computes fake quantization in float: its times say nothing about INT8."""


@dataclass(frozen=True)
class Kept:
    """The last measured stage beside FP32: ``share`` is ``value / fp32``, ``points`` is ``100 * (value - fp32)``.

    ``error`` is the paired standard error of the points, where it was measured.
    """

    stage: str
    value: float
    fp32: float
    error: float | None = None

    @property
    def share(self) -> float:
        """The part of the FP32 metric that is left, 1.0 for all of it."""
        return self.value / self.fp32

    @property
    def points(self) -> float:
        """The difference to FP32 in hundredths of the metric, negative for a loss."""
        return 100 * (self.value - self.fp32)


@dataclass(frozen=True)
class Speed:
    """One INT8 latency beside the fastest float one at the same shape, medians in milliseconds.

    Attributes:
        quartiles: of the ratios round by round, where both were timed in alternation and every sample is there.
    """

    runner: str
    precision: str
    batch: int
    sequence: int
    int8_ms: float
    baseline: str
    baseline_ms: float
    quartiles: tuple[float, float, float] | None = None

    @property
    def ratio(self) -> float:
        """How many times as fast INT8 is, the median of the pairs where there are some; below 1 it is slower."""
        return self.baseline_ms / self.int8_ms if self.quartiles is None else self.quartiles[1]

    @property
    def spread(self) -> float | None:
        """Half the quartile range of the pairs."""
        return None if self.quartiles is None else (self.quartiles[2] - self.quartiles[0]) / 2

    @property
    def shape(self) -> str:
        """The shape as ``--shapes`` writes it."""
        return f"{self.batch}x{self.sequence}"


def read_number(value: object) -> float | None:
    """The value where it is a finite number, else ``None``.

    >>> read_number(3), read_number(None), read_number("3"), read_number(float("nan"))
    (3.0, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def estimate_error(metric: str, value: object, n: object) -> float | None:
    """The standard error of a proportion ``value`` over ``n`` rows; ``None`` where the metric is no proportion.

    >>> estimate_error("accuracy", 0.8, 1600)
    0.01
    >>> estimate_error("f1", 0.8, 1600) is None
    True
    """
    share, rows = read_number(value), read_number(n)
    if metric not in PROPORTIONS or share is None or not rows or not 0 <= share <= 1:
        return None
    return math.sqrt(share * (1 - share) / rows)


def find_kept(accuracy: Mapping[str, Any]) -> Kept | None:
    """The last rung of the ladder that was measured, beside FP32; ``None`` without both, or where FP32 is 0.

    >>> kept = find_kept({"fp32": 0.8, "ptq": 0.7, "qat": None, "onnx": 0.6})
    >>> kept.stage, round(kept.share, 9), round(kept.points, 9)
    ('onnx', 0.75, -20.0)
    """
    fp32 = read_number(accuracy.get("fp32"))
    for stage in reversed(LADDER[1:]):
        value = read_number(accuracy.get(stage))
        if value is not None and fp32:
            return Kept(stage=stage, value=value, fp32=fp32, error=find_paired_error(accuracy, stage))
    return None


def find_paired_error(accuracy: Mapping[str, Any], stage: str) -> float | None:
    """The paired standard error of a stage's difference to FP32, in points; None where it was not measured.

    >>> find_paired_error({"to_fp32": {"onnx": {"points": -0.1, "error": 0.07}}}, "onnx")
    0.07
    """
    found = (accuracy.get("to_fp32") or {}).get(stage)
    return read_number(found.get("error")) if isinstance(found, Mapping) else None


def is_real_int8(row: Mapping[str, Any]) -> bool:
    """Whether a latency row was taken on INT8 kernels: not on torch, which computes fake quantization in float."""
    return "int8" in str(row.get("precision")).lower() and str(row.get("runner")) != _SIMULATOR


def compare_speeds(latency: Sequence[Mapping[str, Any]]) -> list[Speed]:
    """Each INT8 row beside the fastest float row of its shape: of the same runner, or where it has none, of any."""
    return list(_pair_rows([row for row in latency if read_number(row.get("p50_ms"))]))


def _pair_rows(rows: Sequence[Mapping[str, Any]]) -> Iterator[Speed]:
    for row in filter(is_real_int8, rows):
        floats = [
            other
            for other in rows
            if "int8" not in str(other.get("precision")).lower()
            and (other.get("batch"), other.get("sequence")) == (row.get("batch"), row.get("sequence"))
        ]
        same = [other for other in floats if other.get("runner") == row.get("runner")]
        if floats:
            fastest = min(same or floats, key=lambda other: float(other["p50_ms"]))
            yield Speed(
                runner=str(row.get("runner")),
                precision=str(row.get("precision")),
                batch=int(row["batch"]),
                sequence=int(row["sequence"]),
                int8_ms=float(row["p50_ms"]),
                baseline=f"{fastest.get('runner')} {fastest.get('precision')}",
                baseline_ms=float(fastest["p50_ms"]),
                quartiles=pair_quartiles(fastest.get("samples_ms"), row.get("samples_ms")),
            )


def pair_quartiles(slow: object, fast: object) -> tuple[float, float, float] | None:
    """The quartiles of ``slow / fast``, sample by sample; None without as many of both, or with fewer than four.

    >>> pair_quartiles([2.0, 4.0, 30.0, 4.0], [1.0, 2.0, 15.0, 1.0])
    (2.0, 2.0, 2.5)
    >>> pair_quartiles([2.0, 4.0], [1.0, 2.0]) is None
    True
    """
    above, below = _read_times(slow), _read_times(fast)
    if len(above) != len(below) or len(above) < _FEWEST_PAIRS:
        return None
    first, middle, third = np.percentile(np.array(above) / np.array(below), [25, 50, 75]).tolist()
    return first, middle, third


def _read_times(samples: object) -> list[float]:
    """The samples where every one is a number above 0, else none."""
    if not isinstance(samples, Sequence) or isinstance(samples, str):
        return []
    times = [time for sample in samples if (time := read_number(sample)) is not None and time > 0]
    return times if len(times) == len(samples) else []


def select_headline(speeds: Sequence[Speed], target: str) -> list[Speed]:
    """The comparisons of one runner: the one the report's target names, else the first."""
    runners = list(dict.fromkeys(speed.runner for speed in speeds))
    chosen = next((runner for runner in runners if target and target in runner), runners[0] if runners else None)
    return [speed for speed in speeds if speed.runner == chosen]


def describe_speed(speeds: Sequence[Speed]) -> str:
    """One clause on the speed of INT8; it says "slower" wherever INT8 is slower.

    >>> describe_speed([Speed("ort", "int8", 1, 128, 5.0, "ort fp32", 4.0)])
    'INT8 is slower here: 0.80× the speed of ort fp32'
    >>> describe_speed([Speed("ort", "int8", 1, 128, 2.0, "ort fp32", 4.0)])
    '2.00× the speed of ort fp32'
    """
    if not speeds:
        return "speed against float not measured"
    against = " and ".join(dict.fromkeys(speed.baseline for speed in speeds))
    slower = [speed for speed in speeds if round(speed.ratio, 2) < 1]
    if len(slower) == len(speeds):
        return f"INT8 is slower here: {write_span(speeds)} the speed of {against}"
    if slower:
        return f"INT8 is slower here than {against} at {len(slower)} of {len(speeds)} shapes"
    if all(round(speed.ratio, 2) == 1 for speed in speeds):
        return f"INT8 is no faster here than {against}"
    return f"{write_span(speeds)} the speed of {against}"


def write_span(speeds: Sequence[Speed]) -> str:
    """The ratios from the lowest to the highest, once where they read the same.

    >>> write_span([Speed("ort", "int8", 1, 128, 2.0, "ort fp32", ms) for ms in (3.0, 4.0)])
    '1.50–2.00×'
    """
    ends = [f"{end(speed.ratio for speed in speeds):.2f}" for end in (min, max)]
    return "–".join(dict.fromkeys(ends)) + "×"


def describe_accuracy(accuracy: Mapping[str, Any]) -> str:
    """One clause on the accuracy kept.

    >>> describe_accuracy({"metric": "accuracy", "fp32": 0.8, "onnx": 0.796})
    '99.5 % of the FP32 accuracy kept'
    """
    kept = find_kept(accuracy)
    if kept is None:
        return "accuracy against FP32 not measured"
    return f"{100 * kept.share:.1f} % of the FP32 {accuracy.get('metric') or 'metric'} kept"


def is_audited(engine: Mapping[str, Any]) -> bool:
    """Whether the audit did not call itself unavailable."""
    return "unavailable" not in str(engine.get("audit"))


def find_share(engine: Mapping[str, Any]) -> float | None:
    """The INT8 share of the multiply-accumulates, 0 to 1; ``None`` where the audit is missing or says unavailable."""
    return read_number(engine.get("int8_mac_share")) if is_audited(engine) else None


def describe_share(engine: Mapping[str, Any]) -> str:
    """One sentence on what the audit found; without an audit it claims nothing.

    >>> describe_share({"int8_mac_share": 0.93, "audit": "inspector"})
    "93.0 % of the encoder's multiply-accumulates run in INT8."
    """
    share = find_share(engine)
    if share is None:
        return "What runs in INT8 was not measured: nothing here proves that this model does."
    if share == 0:
        return "None of the encoder's multiply-accumulates run in INT8."
    return f"{100 * share:.1f} % of the encoder's multiply-accumulates run in INT8."
