"""``qdq run`` killed while an artefact is written: what lies there is whole, and the run goes on to the same end.

``python -m tests.test_command_line.kill_runs`` does the same at random moments.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_command_line.calling import Workspace, make_workspace
from tests.test_command_line.killing import (
    SETTINGS,
    WEIGHTS,
    Ended,
    Made,
    find_differences,
    find_faults,
    finish,
    kill_when,
    name_run,
    start_run,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    pytest.importorskip("tensorrt_rtx", reason="the builder of the tests: pip install 'qdq[rtx]'")
    return make_workspace(tmp_path_factory.mktemp("killed"), layers=1)


@pytest.fixture(scope="module")
def whole(made: Workspace) -> Made:
    """What a run leaves that nobody stops."""
    ended = run_on(made, made.folder / "whole")
    assert ended.code == 0, ended.said
    return Made.of(made.folder / "whole")


def run_on(made: Workspace, out: Path, *more: str) -> Ended:
    log = out.with_suffix(".txt")
    return finish(start_run(name_run(made, out, SETTINGS, *more), log), log)


def list_taken(ended: Ended) -> Iterator[str]:
    return (name for name in WEIGHTS if f"take {name} ..." in ended.said)


@pytest.mark.long
@pytest.mark.parametrize(
    ("appears", "taken"),
    [
        ("finetuned.checkpoints/checkpoint-4/trainer_state.json", ["calibrated"]),
        (".onnx.*.qdq/model.onnx", ["calibrated", "finetuned"]),
        ("model.engine", ["calibrated", "finetuned", "onnx"]),
    ],
)
def test_a_killed_run_goes_on_to_the_same_end(
    made: Workspace, whole: Made, tmp_path: Path, appears: str, taken: list[str]
) -> None:
    out = tmp_path / "run"
    process = start_run(name_run(made, out, SETTINGS), tmp_path / "killed.txt")
    assert kill_when(process, lambda: any(out.glob(appears)))
    assert [*find_faults(out, whole)] == []
    assert not (out / "report.json").exists()
    resumed = run_on(made, out, "--resume")
    assert resumed.code == 0, resumed.said
    assert [*list_taken(resumed)][: len(taken)] == taken  # more of them where the kill came late
    assert [*find_differences(out, whole)] == []
