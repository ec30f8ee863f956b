"""What a user writes: every snippet has its lines counted, and ours run here; the others' run in the contest."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.peers.contest import Contest
from benchmarks.peers.roster import OURS, PEERS
from benchmarks.peers.written import count_lines, run_snippet, run_snippets

OF_OTHERS = [name for peer in PEERS.values() if peer.requirements for name in peer.snippets]


@pytest.mark.parametrize("name", OF_OTHERS)
def test_a_snippet_of_another_has_lines_that_are_counted(name: str) -> None:
    assert count_lines(name) > count_lines("qdq.sh") == 2


@pytest.mark.long
@pytest.mark.parametrize("name", OURS.snippets)
def test_our_snippets_do_what_they_say(name: str, contest: Contest) -> None:
    written = run_snippet(OURS, name, contest)

    assert (written.error, written.lines) == ("", count_lines(name))
    assert written.wall_s is not None


def test_a_snippet_without_its_environment_keeps_the_error(contest: Contest) -> None:
    (written,) = run_snippets(contest, [PEERS["nncf"]], [])

    assert written.wall_s is None
    assert written.error.startswith("the environment of NNCF + OpenVINO is missing")


@pytest.mark.long
def test_a_snippet_that_fails_keeps_its_last_line(contest: Contest, tmp_path: Path) -> None:
    written = run_snippet(OURS, "qdq.py", replace(contest, checkpoint=tmp_path))

    assert written.wall_s is None
    assert written.error != ""


def test_a_snippet_that_has_run_is_not_run_again(contest: Contest) -> None:
    (known,) = run_snippets(contest, [PEERS["nncf"]], [])

    assert list(run_snippets(contest, [PEERS["nncf"]], [known])) == []
