"""Whole passes over encoded rows: rows of like length in one batch, beside random batches padded to their longest."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.latency.roster import Contestant
from benchmarks.timing import Samples, time_paired
from export.runners.feeding import feed_runner
from qat.batches import Order, iterate_batches
from qat.scoring import Batching, answer_rows
from qat.tasks import Task
from qat.tasks.base import Encoded

ORDERS: Mapping[str, Order] = {"bucketed": "length", "random": "shuffled"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Throughput:
    """What one contestant answers.

    Attributes:
        name: the contestant's.
        order: ``bucketed`` or ``random``.
        texts_per_s: at the median pass.
        ratio: times faster than the first contestant in the same order, the median over the rounds.
        spread: half the quartile range of that.
        bucketing: times faster than the same contestant in random batches, likewise; 1 for those.
        samples_ms: every pass.
    """

    name: str
    order: str
    texts_per_s: float
    ratio: float
    spread: float
    bucketing: float
    samples_ms: tuple[float, ...]


def share_padding(rows: Encoded, batching: Batching) -> float:
    """The share of the tokens fed that is padding.

    >>> rows = Encoded([{"input_ids": [5] * n, "attention_mask": [1] * n} for n in (1, 4, 1, 4)], 8, 0, "four rows")
    >>> share_padding(rows, Batching(pad_token_id=0, batch_size=2, order="given"))
    0.375
    >>> share_padding(rows, Batching(pad_token_id=0, batch_size=2, order="length"))
    0.0
    """
    batches = iterate_batches(
        rows, batch_size=batching.batch_size, pad_token_id=batching.pad_token_id, order=batching.order
    )
    fed = sum(batch.inputs["input_ids"].size for batch in batches)
    return 1 - sum(map(len, rows.sequences)) / fed


def time_passes(
    contestants: Sequence[Contestant],
    rows: Encoded,
    task: Task,
    *,
    batching: Batching,
    rounds: int,
    clock: Callable[[], int],
) -> list[Throughput]:
    """Each contestant in both orders, their passes in alternation.

    Args:
        contestants: opened runners, the first is the one that the others are compared with.
        rows: encoded ones.
        task: theirs.
        batching: batch size and streams; the order is measured.
        rounds: passes of each that are kept.
        clock: what is read around each pass, in nanoseconds.
    """
    calls: dict[str, Callable[[], object]] = {}
    for contestant in contestants:
        infer = feed_runner(contestant.runner, rows)
        for name, order in ORDERS.items():
            own = replace(batching, order=order)
            calls[f"{contestant.name}, {name}"] = lambda infer=infer, own=own: answer_rows(  # type: ignore[misc]
                infer, rows, task.keep, batching=own
            )
    samples = time_paired(calls, repeats=rounds, warmup=1, settle=0, clock=clock)
    return compare_passes([each.name for each in contestants], samples, len(rows))


def compare_passes(names: Sequence[str], samples: Mapping[str, Samples], rows: int) -> list[Throughput]:
    """The figures of passes over so many rows, in the order of the contestants; names as ``time_passes`` joins them.

    >>> def taken(*ms):
    ...     return Samples(ms)
    >>> found = compare_passes(
    ...     ["a", "b"],
    ...     {"a, bucketed": taken(20.0), "a, random": taken(40.0), "b, bucketed": taken(5.0), "b, random": taken(20.0)},
    ...     100,
    ... )
    >>> [(each.name, each.order, each.texts_per_s, each.ratio, each.bucketing) for each in found][2:]
    [('b', 'bucketed', 20000.0, 4.0, 4.0), ('b', 'random', 5000.0, 2.0, 1.0)]
    """
    found = []
    for name in names:
        for order in ORDERS:
            own, first, loose = (
                np.array(samples[f"{who}, {which}"].milliseconds)
                for who, which in ((name, order), (names[0], order), (name, "random"))
            )
            low, middle, high = np.percentile(first / own, [25, 50, 75]).tolist()
            found.append(
                Throughput(
                    name=name,
                    order=order,
                    texts_per_s=float(rows * 1000 / np.median(own)),
                    ratio=middle,
                    spread=(high - low) / 2,
                    bucketing=float(np.median(loose / own)),
                    samples_ms=samples[f"{name}, {order}"].milliseconds,
                )
            )
    return found
