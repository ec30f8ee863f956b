"""The README's side-by-side table is the newest result file, drawn again."""

import json

from benchmarks.peers.table import draw_table
from tests.contracts.source_tree import ROOT

RESULT = ROOT / "benchmarks/results/peers-minilm_epyc-2core_2026-11-21.json"


def test_the_readme_shows_the_result_file_as_it_is_drawn() -> None:
    result = json.loads(RESULT.read_text(encoding="utf-8"))

    assert f"```text\n{draw_table(result)}\n```" in (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")


def test_the_table_beside_the_result_file_is_drawn_from_it() -> None:
    result = json.loads(RESULT.read_text(encoding="utf-8"))

    assert RESULT.with_suffix(".md").read_text(encoding="utf-8") == f"```text\n{draw_table(result)}\n```\n"
