"""A job and an answer come back from their files as they were."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.peers.job import Answer, Inside, Job, Spent


def test_a_job_comes_back_with_every_batch_in_order(job: Job, tmp_path: Path) -> None:
    job.write(tmp_path)

    back = Job.read(tmp_path)

    assert (back.checkpoint, back.task, back.graph, back.threads) == (job.checkpoint, job.task, job.graph, job.threads)
    for given, found in ((job.calibration, back.calibration), (job.evaluation, back.evaluation)):
        assert len(given) == len(found)
        assert all(left.keys() == right.keys() for left, right in zip(given, found, strict=True))
        assert all(
            np.array_equal(left[name], right[name]) for left, right in zip(given, found, strict=True) for name in left
        )


def test_more_than_ten_batches_keep_their_order(tmp_path: Path) -> None:
    feeds = [{"input_ids": np.full((1, 2), number, dtype=np.int64)} for number in range(12)]
    written = Job(checkpoint=tmp_path, task="t", graph=None, threads=1, calibration=feeds, evaluation=feeds)

    written.write(tmp_path)

    assert Job.read(tmp_path).timed == {}
    assert [int(feed["input_ids"][0, 0]) for feed in Job.read(tmp_path).evaluation] == list(range(12))
    assert Job.read(tmp_path).graph is None


def test_what_is_to_be_timed_comes_back_by_its_shape(job: Job, tmp_path: Path) -> None:
    replace(job, timed={"1x8": job.calibration[:1], "8x8": job.calibration}, seconds=0.5).write(tmp_path)

    back = Job.read(tmp_path)

    assert {shape: len(feeds) for shape, feeds in back.timed.items()} == {"1x8": 1, "8x8": len(job.calibration)}
    assert back.seconds == 0.5
    assert np.array_equal(back.timed["1x8"][0]["input_ids"], job.calibration[0]["input_ids"])


def test_an_answer_comes_back(tmp_path: Path) -> None:
    inside = Inside(weights=1, activations=2, products=3, file_bytes=None, counted="modules")
    logits = np.arange(6, dtype=np.float32).reshape(3, 2)
    answer = Answer(
        inference=Spent(1.5, 1.0),
        quantization=Spent(2.5, 2.0),
        peak_mb=100,
        inside=inside,
        versions={"numpy": "2"},
        logits=logits,
    )

    answer.write(tmp_path)
    back = Answer.read(tmp_path)

    assert (back.inference, back.quantization) == (Spent(1.5, 1.0), Spent(2.5, 2.0))
    assert (back.peak_mb, back.inside, back.versions) == (100, inside, {"numpy": "2"})
    assert np.array_equal(back.logits, logits)
