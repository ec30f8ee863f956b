"""Other quantizers beside ours."""

from benchmarks.peers.table import draw_table
from benchmarks.readme_tables.markdown import fence
from benchmarks.readme_tables.registry import Results, readme_table


@readme_table("peers")
def draw_peers(results: Results) -> str:
    """Every row on MiniLM, and the matched ones beside ours."""
    return fence(draw_table(results.read("peers-minilm_epyc-2core")))
