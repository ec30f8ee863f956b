"""Other quantizers beside ours."""

from benchmarks.peers.cost_table import draw_costs
from benchmarks.peers.table import draw_table
from benchmarks.readme_tables.markdown import fence
from benchmarks.readme_tables.registry import Results, readme_table


@readme_table("peers")
def draw_peers(results: Results) -> str:
    """Every row on MiniLM, the matched ones beside ours, and what they cost who deploys them."""
    result = results.read("peers-minilm_epyc-2core-avx2")
    return fence("\n\n".join([draw_table(result), draw_costs(result)]))
