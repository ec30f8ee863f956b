"""An environment is made once, from pinned versions, and made again when the pins change."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.peers.environments import find_python, list_commands, pins_of, prepare_environment
from benchmarks.peers.roster import OURS, PEERS, find_peers
from benchmarks.peers.row import Peer
from qat.errors import BuildError, DataError

OTHERS = [peer for peer in PEERS.values() if peer.requirements]


def _pins(peer: Peer) -> dict[str, str]:
    lines = pins_of(peer).read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


@pytest.mark.parametrize("peer", OTHERS, ids=lambda peer: peer.name)
def test_every_requirement_of_a_peer_is_pinned(peer: Peer) -> None:
    pins = {canonicalize_name(name) for name in _pins(peer)}

    assert {canonicalize_name(Requirement(text).name) for text in peer.requirements} - pins == set()
    assert {canonicalize_name(name) for name in peer.packages} - pins == set()


@pytest.mark.parametrize("peer", OTHERS, ids=lambda peer: peer.name)
def test_what_a_peer_shares_with_us_has_our_version(peer: Peer) -> None:
    ours = Path(__file__).resolve().parents[3] / ".ci/constraints.txt"
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", ours.read_text(encoding="utf-8"), re.MULTILINE))
    shared = {"torch", "transformers", "onnx", "onnxruntime", "numpy"} & _pins(peer).keys()

    assert {name: _pins(peer)[name] for name in shared} == {name: pinned[name] for name in shared}


def test_the_cpu_build_of_torch_is_installed_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_INDEX", "https://index.example")

    fresh, torch, rest = list_commands(PEERS["modelopt"], tmp_path)

    assert fresh == [sys.executable, "-m", "venv", "--clear", str(tmp_path)]
    assert torch[-4:] == ["--no-deps", "--index-url", "https://index.example", "torch"]
    assert rest[-len(PEERS["modelopt"].requirements) :] == list(PEERS["modelopt"].requirements)
    assert str(pins_of(PEERS["modelopt"])) in torch
    assert str(pins_of(PEERS["modelopt"])) in rest


def test_a_peer_without_torch_needs_no_index_of_its_builds(tmp_path: Path) -> None:
    assert len(list_commands(replace(PEERS["onnxruntime"], requirements=("onnxruntime",)), tmp_path)) == 2


def test_an_environment_is_made_once(tmp_path: Path) -> None:
    ran: list[list[str]] = []
    peer = replace(PEERS["onnxruntime"], requirements=("onnxruntime",))
    (tmp_path / peer.name).mkdir()

    home = prepare_environment(peer, tmp_path, run=ran.append)
    again = prepare_environment(peer, tmp_path, run=ran.append)

    assert home == again == tmp_path / peer.name
    assert len(ran) == 2
    assert find_python(peer, tmp_path) == home / "bin/python"


def test_peers_may_share_an_environment(tmp_path: Path) -> None:
    (tmp_path / "modelopt").mkdir()
    prepare_environment(PEERS["modelopt"], tmp_path, run=lambda command: None)

    assert find_python(PEERS["modelopt-onnx"], tmp_path) == tmp_path / "modelopt" / "bin/python"


def test_other_requirements_make_it_outdated(tmp_path: Path) -> None:
    peer = PEERS["onnxruntime"]
    (tmp_path / peer.name).mkdir()
    prepare_environment(peer, tmp_path, run=lambda command: None)

    with pytest.raises(BuildError, match=r"the environment of ONNX Runtime is outdated .* run python -m benchmarks"):
        find_python(replace(peer, requirements=("numpy",)), tmp_path)


def test_ours_is_the_running_interpreter() -> None:
    assert find_python(OURS) == Path(sys.executable)


def test_a_failed_installation_says_the_last_line_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "noise\nERROR: no such version\n")

    monkeypatch.setattr(subprocess, "run", fail)

    with pytest.raises(BuildError, match="failed: ERROR: no such version; the registry must be reachable"):
        prepare_environment(PEERS["onnxruntime"], tmp_path)


def test_an_unknown_peer_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(DataError, match="peer 'modelop' is not known: did you mean 'modelopt'"):
        find_peers(["modelop"])


def test_no_names_are_all_peers() -> None:
    assert find_peers([]) == list(PEERS.values())
