"""A predictor shared by threads answers each as if it were alone."""

from pathlib import Path

import pytest

from export.predict import Predictor
from tests.soak.serving import THREADS, make_requests, serve
from tests.test_export.test_predict import CPU_TARGETS, export_single
from tests.tiny import tiny_rows

pytestmark = pytest.mark.long

ROUNDS = 10


def test_threads_share_a_predictor(tmp_path: Path) -> None:
    folders = export_single(tmp_path)
    requests = make_requests([str(row["text"]) for row in tiny_rows(40)])
    for name in CPU_TARGETS:
        with Predictor(folders[name]) as predictor:
            served = serve(predictor, requests, go_on=lambda done, seconds: done < ROUNDS)
            truncated = predictor.truncated
        assert (served.requests, served.wrong) == (THREADS * ROUNDS * len(requests), 0)
        assert truncated == 2 * (THREADS * ROUNDS + 1)
