"""Who takes part; another quantizer is one ``*_peer`` module, one file of pinned versions and one line here."""

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.peers import (
    modelopt_onnx_peer,
    modelopt_peer,
    nncf_peer,
    onnxruntime_peer,
    qdq_onnxruntime_peer,
    qdq_openvino_peer,
    qdq_peer,
    qdq_rtx_peer,
    torchao_peer,
)
from benchmarks.peers.row import Peer
from calibration.ranges import METHODS
from qat.errors import DataError, suggest

OURS = qdq_peer.PEER

PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        OURS,
        qdq_onnxruntime_peer.PEER,
        qdq_openvino_peer.PEER,
        qdq_rtx_peer.PEER,
        modelopt_peer.PEER,
        modelopt_onnx_peer.PEER,
        onnxruntime_peer.PEER,
        nncf_peer.PEER,
        torchao_peer.PEER,
    )
}
OWN = frozenset(peer.name for peer in PEERS.values() if not peer.requirements)
"""The names of the peers that are us."""


def find_peers(names: Sequence[str]) -> list[Peer]:
    """The peers of those names, all of them for none.

    Raises:
        DataError: a name that is no peer's.
    """
    for name in names:
        if name not in PEERS:
            raise DataError(f"peer '{name}' is not known: {suggest(name, PEERS)}")
    return [peer for name, peer in PEERS.items() if not names or name in names]


def keep_usual(peers: Sequence[Peer]) -> list[Peer]:
    """The peers without their rows of further methods: ours by the default one, theirs by the maximum or their own."""
    further = {True: set(METHODS), False: set(METHODS) - {"max"}}
    return [
        replace(peer, rows=tuple(row for row in peer.rows if row.recipe.split()[-1] not in further[peer is OURS]))
        for peer in peers
    ]
