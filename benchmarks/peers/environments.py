"""Each peer's own virtual environment, made from pinned versions, so that no peer decides what another may install."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.peers.row import Peer
from qat.errors import BuildError

FOLDER = Path("runs/peers")
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
"""Where the CPU build of torch lies; the ordinary registry's build brings gigabytes of CUDA along."""

_MARK = ".installed"
_MINUTES = 30


def pins_of(peer: Peer) -> Path:
    """The file of every version in a peer's environment."""
    return Path(__file__).with_name(f"{peer.home}.txt")


def find_python(peer: Peer, folder: Path = FOLDER) -> Path:
    """The interpreter of a peer's environment; our own for a peer that needs none.

    Raises:
        BuildError: the environment was not made, or from other versions than are pinned now.
    """
    if not peer.requirements:
        return Path(sys.executable)
    home = folder / peer.home
    mark = home / _MARK
    if not mark.is_file() or mark.read_text(encoding="utf-8") != _fingerprint(peer):
        state = "outdated" if mark.is_file() else "missing"
        raise BuildError(f"the environment of {peer.title} is {state} ({home}): run python -m benchmarks.peers prepare")
    return (home / "bin/python").absolute()


def prepare_environment(peer: Peer, folder: Path = FOLDER, *, run: Callable[[list[str]], None] | None = None) -> Path:
    """The folder of a peer's environment, made new unless it is there with the versions pinned now.

    Args:
        peer: one with requirements.
        folder: where the environments lie.
        run: what runs a command; subprocess unless a caller has another.

    Raises:
        BuildError: a package could not be installed.
    """
    run = run or _run
    home = folder / peer.home
    mark = home / _MARK
    if mark.is_file() and mark.read_text(encoding="utf-8") == _fingerprint(peer):
        return home
    for command in list_commands(peer, home):
        run(command)
    mark.write_text(_fingerprint(peer), encoding="utf-8")
    return home


def list_commands(peer: Peer, home: Path) -> list[list[str]]:
    """The commands that make an environment: a fresh one, the CPU build of torch where it is needed, all the rest."""
    pip = [str(home / "bin/python"), "-m", "pip", "install", "--quiet", "--retries", "2"]
    pinned = [*pip, "--constraint", str(pins_of(peer))]
    commands = [[sys.executable, "-m", "venv", "--clear", str(home)]]
    index = os.environ.get("TORCH_INDEX", TORCH_INDEX)
    if "torch" in peer.requirements and index:
        commands.append([*pinned, "--no-deps", "--index-url", index, "torch"])
    return [*commands, [*pinned, *peer.requirements]]


def _fingerprint(peer: Peer) -> str:
    text = " ".join(peer.requirements) + pins_of(peer).read_text(encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60 * _MINUTES, check=False)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{' '.join(command)} was stopped after {_MINUTES} minutes: try again") from error
    # Without the index of CPU builds the ordinary registry has to do, as in the Makefile.
    if done.returncode and "--index-url" not in command:
        said = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        raise BuildError(f"{' '.join(command)} failed: {said}; the registry must be reachable")
