"""Who takes part; another quantizer is one ``*_peer`` module, one file of pinned versions and one line here."""

from collections.abc import Sequence

from benchmarks.peers import modelopt_peer, nncf_peer, onnxruntime_peer, qdq_peer
from benchmarks.peers.row import Peer
from qat.errors import DataError, suggest

OURS = qdq_peer.PEER

PEERS: dict[str, Peer] = {peer.name: peer for peer in (OURS, modelopt_peer.PEER, onnxruntime_peer.PEER, nncf_peer.PEER)}


def find_peers(names: Sequence[str]) -> list[Peer]:
    """The peers of those names, all of them for none.

    Raises:
        DataError: a name that is no peer's.
    """
    for name in names:
        if name not in PEERS:
            raise DataError(f"peer '{name}' is not known: {suggest(name, PEERS)}")
    return [peer for name, peer in PEERS.items() if not names or name in names]
