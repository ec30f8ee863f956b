"""Latency rows of real models: the same tokens for every runner, percentiles of the raw samples, clear refusals."""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import BertConfig, BertModel

from benchmarks.latency import measure_latency
from benchmarks.workload import Workload
from export.runners.base import Arrays
from qat.errors import RecipeError

ROWS = [[2, *range(start, start + length), 3] for start, length in ((5, 3), (10, 7), (20, 12), (40, 20))]
DYNAMIC: tuple[int | str, ...] = ("batch", "sequence")


class TinyBert:
    """A two-layer BERT in torch behind the Runner protocol; it keeps the feeds it saw."""

    name = "torch"

    def __init__(self, dtype: torch.dtype, inputs: Mapping[str, tuple[int | str, ...]]) -> None:
        config = BertConfig(
            vocab_size=64,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
        )
        self.precision = str(dtype).removeprefix("torch.")
        self.inputs = inputs
        self.model = BertModel(config)
        torch.nn.Module.eval(self.model)
        torch.nn.Module.to(self.model, dtype)
        self.seen: list[Mapping[str, NDArray[np.generic]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seen.clear()

    def infer(self, feed: Mapping[str, NDArray[np.generic]]) -> Arrays:
        self.seen.append(feed)
        with torch.inference_mode():
            output = self.model(**{name: torch.from_numpy(array) for name, array in feed.items()})
        return {"last_hidden_state": output.last_hidden_state.float().numpy()}


def test_every_runner_is_measured_at_every_shape_on_the_same_tokens() -> None:
    told: list[tuple[int, int]] = []
    names = ("input_ids", "attention_mask", "token_type_ids")
    with (
        TinyBert(torch.float32, dict.fromkeys(names, DYNAMIC)) as full,
        TinyBert(torch.bfloat16, dict.fromkeys(names[:2], DYNAMIC)) as half,
    ):
        rows = measure_latency(
            [full, half],
            [Workload(1, 8), Workload(3, 16)],
            ROWS,
            seconds=0.1,
            progress=lambda done, of: told.append((done, of)),
        )

        assert [(row.precision, row.batch, row.sequence) for row in rows] == [
            ("float32", 1, 8),
            ("bfloat16", 1, 8),
            ("float32", 3, 16),
            ("bfloat16", 3, 16),
        ]
        assert [sorted(feed) for feed in (full.seen[0], half.seen[0])] == [sorted(names), sorted(names[:2])]
        assert len(full.seen) == len(half.seen)
        assert all(np.array_equal(a["input_ids"], b["input_ids"]) for a, b in zip(full.seen, half.seen, strict=True))
        assert not np.array_equal(full.seen[0]["input_ids"], full.seen[1]["input_ids"])
    assert told == [(0, 2), (1, 2)]


def test_rows_are_statistics_of_their_own_samples() -> None:
    with TinyBert(torch.float32, {"input_ids": DYNAMIC}) as runner:
        (row,) = measure_latency([runner], [Workload(2, 8)], ROWS, seconds=0.05)

    assert [row.p50_ms, row.p90_ms, row.p99_ms] == np.percentile(row.samples_ms, [50, 90, 99]).tolist()
    assert row.samples_per_s == 2000 / row.p50_ms
    assert 0 < min(row.samples_ms) <= row.p50_ms <= row.p90_ms <= row.p99_ms


@pytest.mark.parametrize(
    ("shape", "written"), [((1, 8), "1x8"), (("batch", 16), "batchx16"), (("batch", 4, "sequence"), "batchx4xsequence")]
)
def test_a_shape_the_runner_does_not_take_is_refused_first(shape: tuple[int | str, ...], written: str) -> None:
    with TinyBert(torch.float32, {"input_ids": shape}) as runner, pytest.raises(RecipeError) as raised:
        measure_latency([runner], [Workload(2, 8)], ROWS, seconds=0.05)

    assert str(raised.value) == (
        f"the shape 2x8 for torch float32: its input input_ids takes {written}; "
        "ask for that shape with --shapes, or export with dynamic axes"
    )
