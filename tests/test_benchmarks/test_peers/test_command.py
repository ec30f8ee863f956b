"""``python -m benchmarks.peers`` as a user calls it."""

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.command_line import run
from benchmarks.peers import roster
from benchmarks.peers.commands import app
from benchmarks.peers.contest import Contest, Outcome
from benchmarks.peers.result import describe_contest, write_result
from benchmarks.peers.row import FLOAT
from tests.test_command_line.calling import Done, Workspace

FACTS: dict[str, Any] = {
    "inference": {"wall_s": 2.0, "cpu_s": 2.0},
    "quantization": {"wall_s": 2.0, "cpu_s": 2.0},
    "peak_mb": 900,
    "inside": None,
}


def _call(*arguments: object) -> Done:
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["peers", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            run(app, "python -m benchmarks.peers", default=())
    return Done(left.value.code or 0, out.getvalue(), err.getvalue())


def test_an_unknown_peer_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = _call("--only", "nobody", "--out", tmp_path / "peers.json")

    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("qdq: peer 'nobody' is not known")
    assert list(tmp_path.iterdir()) == []


def test_a_contest_prints_its_table_and_ends_with_json(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    baseline = replace(roster.OURS, rows=(roster.OURS.by_recipe[FLOAT],))
    monkeypatch.setitem(roster.PEERS, "qdq", baseline)
    out = tmp_path / "peers.json"

    done = _call(
        *("--checkpoint", workspace.checkpoint, "--data", workspace.train, "--eval", workspace.validation),
        *("--texts", 16, "--only", "nncf", "--environments", tmp_path / "none", "--out", out, "--no-costs"),
    )

    assert done.code == 0, done.err
    assert done.out.startswith("float: 32 rows scored, 16 texts calibrate\n")
    assert {row["peer"] for row in done.value["rows"]} == {"qdq", "nncf"}
    assert all((row["accuracy"] is None) == (row["peer"] == "nncf") for row in done.value["rows"])
    assert json.loads(out.read_text(encoding="utf-8"))["scored"] == 32
    assert "the environment of NNCF + OpenVINO is missing" in " ".join(out.with_suffix(".md").read_text().split())


def test_a_row_that_takes_longer_than_allowed_is_told_so(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    baseline = replace(roster.OURS, rows=(roster.OURS.by_recipe[FLOAT],))
    monkeypatch.setitem(roster.PEERS, "qdq", baseline)

    done = _call(
        *("--checkpoint", workspace.checkpoint, "--data", workspace.train, "--eval", workspace.validation),
        *("--texts", 16, "--only", "qdq", "--out", tmp_path / "peers.json", "--no-costs", "--minutes", 0.01),
    )

    assert done.code == 0, done.err
    (row,) = done.value["rows"]
    assert (row["accuracy"], row["error"]) == (None, "stopped after 0.01 minutes")


def test_resuming_runs_nothing_that_is_there_and_keeps_the_other_peers(
    contest: Contest, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    baseline = replace(roster.OURS, rows=(roster.OURS.by_recipe[FLOAT],))
    monkeypatch.setitem(roster.PEERS, "qdq", baseline)
    rows = {"qdq": baseline.rows[0], "onnxruntime": roster.PEERS["onnxruntime"].by_recipe["dynamic"]}
    done_before = [
        Outcome(peer=peer, row=row, accuracy=0.5, correct="10" * 16, facts={**FACTS, "versions": {}})
        for peer, row in rows.items()
    ]
    out, _ = write_result(tmp_path / "peers.json", describe_contest(contest, done_before))

    done = _call(
        *("--checkpoint", workspace.checkpoint, "--data", workspace.train, "--eval", workspace.validation),
        *("--texts", 16, "--only", "nncf", "--environments", tmp_path / "none", "--out", out, "--resume", "--no-costs"),
    )

    assert done.code == 0, done.err
    assert [row["accuracy"] for row in done.value["rows"]] == [0.5, 0.5, *[None] * len(roster.PEERS["nncf"].rows)]
    assert "float ..." not in done.err


def test_preparing_one_peer_says_where_its_environment_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.peers.commands.prepare_environment", lambda peer, folder: folder / peer.name)

    done = _call("prepare", "--only", "nncf", "--environments", tmp_path)

    assert done.code == 0
    assert str(tmp_path / "nncf") in done.err
