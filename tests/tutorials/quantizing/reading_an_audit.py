"""Reading an audit: ``python reading_an_audit.py ENGINE``, or an exported folder.

An engine may run in float what a graph marks as INT8, and says nothing of it. The audit reads the engine's own layer
table: which kernel computes every matrix product, and in what.
"""

import sys
from typing import Any

import qdq


def main(artefact: str) -> bool:
    """Whether everything that was planned in INT8 runs in INT8."""
    found: Any = qdq.audit(artefact)  # of an engine; a folder for ONNX Runtime has less to tell

    # Planned: a product whose weight the graph quantizes. The other products, such as the pooler's and the head's, are
    # float because the recipe left them so.
    print(f"{found.int8_gemms} products run in INT8")
    print(f"{found.float_gemms} were planned in INT8 and run in float")
    print(f"{found.unplanned_gemms} were not planned")

    # An attention is one fused kernel, or two products and a softmax that pass their scores through memory.
    print(f"{found.int8_attentions} fused attentions in INT8, {found.float_attentions} in float")
    print(f"{found.split_attentions} attentions are not fused")

    # How much of the work that is: a small product counts less than a large one.
    print(f"{found.int8_mac_share:.1%} of the encoder's multiply-accumulates in INT8")

    # Every product that is not INT8 has its reason. Planned ones are what to look into; their nodes are the graph's.
    for row in found.rows:
        if row.reason:
            print(f"{'planned' if row.planned else 'not planned'}: {row.kind} {row.name} in {row.dtype}: {row.reason}")

    # What `qdq audit ENGINE --fail-under 1` makes an exit code of, for a build that must not lose INT8 unseen.
    return bool(found.as_planned)


if __name__ == "__main__":
    sys.exit(0 if main(*sys.argv[1:]) else 1)
