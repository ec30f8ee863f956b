"""Latency: runners side by side in one process on the same real tokens.

In the order of the flow: ``roster`` (who is timed), ``rows`` (the times), ``table`` (ratios), ``latency_command``
(``python -m benchmarks.latency``).
"""

from benchmarks.latency.rows import LatencyRow, measure_latency

__all__ = ["LatencyRow", "measure_latency"]
