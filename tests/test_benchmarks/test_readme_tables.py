"""READMEs and result pages say what the result files say."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.readme_tables.blocks import replace_tables
from benchmarks.readme_tables.pages import draw_page
from benchmarks.readme_tables.registry import TABLES, Results, draw_table
from benchmarks.readme_tables.tables_command import TEXTS, app, find_stale
from qat.errors import DataError

BLOCK = "a\n<!-- table: plans -->\n\nold\n\n<!-- end -->\nb\n"


def test_the_readmes_and_the_pages_are_in_step_with_the_results() -> None:
    assert list(map(str, find_stale(TEXTS, Results()))) == [], "run python -m benchmarks.readme_tables"


def test_every_registered_table_stands_in_one_readme() -> None:
    both = "".join(text.read_text(encoding="utf-8") for text in TEXTS)
    marked = re.findall(r"^<!-- table: (.*) -->$", both, re.MULTILINE)

    assert sorted(marked) == sorted(TABLES)


def test_every_table_of_the_results_is_generated() -> None:
    front, figures = (text.read_text(encoding="utf-8") for text in TEXTS)
    sections = front[front.index("\n## Results\n") : front.index("\n## What is quantized\n")]
    by_hand = re.sub(r"<!-- table: .*?<!-- end -->", "", sections + figures, flags=re.DOTALL)

    assert re.findall(r"^(\|.*\|)\n\|---", by_hand, re.MULTILINE) == []


def test_what_stands_between_markers_is_replaced_and_nothing_else() -> None:
    text, stale = replace_tables(BLOCK, lambda name: f"{name}\n")

    assert (text, stale) == ("a\n<!-- table: plans -->\n\nplans\n\n<!-- end -->\nb\n", ["plans"])
    assert replace_tables(text, lambda name: f"{name}\n") == (text, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BLOCK.replace("<!-- end -->", ""), "the table 'plans' has no end: put <!-- end --> on a line of its own"),
        (BLOCK.replace("<!-- end -->", "") + BLOCK, "the table 'plans' has no end"),
        (BLOCK + BLOCK, "the table 'plans' stands there twice: take its markers away at one of the two places"),
        (BLOCK.replace("plans", "plan"), "no table is called 'plan': did you mean 'plans'"),
    ],
)
def test_markers_that_do_not_fit_are_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        replace_tables(text, lambda name: draw_table(name, Results()))


def test_the_newest_result_of_a_name_is_read(tmp_path: Path) -> None:
    for name in ("plans_cpu_2026-01-02", "plans_cpu_2026-01-10", "plans_gpu_2027-01-01", "plans-albert_cpu_2027-01-01"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"name": name}), encoding="utf-8")

    assert Results(tmp_path).read("plans_cpu") == {"name": "plans_cpu_2026-01-10"}


def test_a_result_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "plans_epyc_2026-01-02.json").write_text("{}", encoding="utf-8")

    with pytest.raises(
        DataError, match=r"no result 'plans_epyc-2core' in .*: did you mean 'plans_epyc'\? known: plans_epyc"
    ):
        draw_table("plans", Results(tmp_path))


def _change(folder: Path, name: str, change: Callable[[Any], None]) -> Results:
    """The results with one figure changed, as a newer file of that name."""
    for path in Results().paths():
        (folder / path.name).symlink_to(path)
    result = Results().read(name)
    change(result)
    (folder / f"{name}_2099-01-01.json").write_text(json.dumps(result), encoding="utf-8")
    return Results(folder)


def _find_row(result: Any, **facts: str) -> Any:
    return next(row for row in result["rows"] if facts.items() <= row.items())


CHANGES: dict[str, tuple[str, Callable[[Any], None], str]] = {
    "journeys": ("journey-minilm_epyc-2core", lambda r: r["accuracy"].update(onnx=0.5), "| 50.00 (59.5 %) | 99.88 % |"),
    "methods": ("methods-minilm_epyc-2core", lambda r: r["rows"][0].update(accuracy=12.345), "| FP32 | | 12.35 |"),
    "method-recipes": (
        "methods-albert_epyc-2core",
        lambda r: _find_row(r, placement="lean/tensor", method="max").update(accuracy=12.345),
        "| `lean` | per tensor | max | 83.87 | 12.35 |",
    ),
    "calibration-cost": (
        "calibration-minilm_epyc-2core-avx2",
        lambda r: r["best"].update({"nncf: linear": 12.345}),
        "| NNCF `linear`, GEMMs alone | 12.3 | 16.9 |",
    ),
    "qat-starts": (
        "qat_epyc-2core",
        lambda r: r["tables"]["albert"]["differences"][0].update(value=12.345),
        "| FP32 | 12.35 |",
    ),
    "qat-seeds": (
        "qat_epyc-2core",
        lambda r: r["tables"]["minilm-450"]["columns"][1].update(mean=12.345),
        "| FP32 trained on with the labels | 450 | 3 | 12.35 |",
    ),
    "embeddings": (
        "embeddings-minilm_epyc-2core",
        lambda r: r["rows"][1].update(recall_at_10=3.811),
        "| calibrated | 3.81 | 10.0 | 14.53 |",
    ),
    "qat-tasks": ("qat-span_epyc-2core", lambda r: r["cells"][2].update(onnx=12.345), "| -0.35 ± 0.20 | 12.35 |"),
    "qat-fill-mask": (
        "qat-fill-mask_epyc-2core-avx2",
        lambda r: r["cells"][2].update(onnx=8.0),
        "| calibrated | 685.1 | 98.99 | 12.5 |",
    ),
    "plans": ("plans_epyc-2core", lambda r: r["rows"][0].update(kernels=999), "| FP16 | 999/66 155.0 |"),
    "latency": (
        "latency-minilm_epyc-2core",
        lambda r: r["ratios"][1].update(ratio=9.0, low=8.0, high=9.5),
        "| FP32 | 38 | 9.00 ± 0.75 |",
    ),
    "throughput": (
        "throughput-minilm_epyc-2core",
        lambda r: r["passes"][0].update(texts_per_s=7654.3),
        "| 7,654 | 1.00",
    ),
    "qat-step": ("qat-step-minilm_epyc-2core", lambda r: r.update(memory_full=7.0), "± 0.021 | 7.00 | 1.35 |"),
    "weight-bits": (
        "weight-bits-minilm_epyc-2core-avx2",
        lambda r: r["rows"][0].update(agreement=12.345),
        "| `tensorrt` | 8 bits | 84.70 | 12.3 |",
    ),
    "peers": ("peers-minilm_epyc-2core-avx2", lambda r: r.update(scored=7), "7 rows scored"),
    "peer-columns": (
        "peers-albert_epyc-2core-avx2",
        lambda r: _find_row(r, peer="nncf", recipe="default").update(accuracy=0.123),
        "| NNCF | 38.50 | 12.30 |",
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_follows_its_result(name: str, tmp_path: Path) -> None:
    result, change, shown = CHANGES[name]
    assert shown not in draw_table(name, Results())

    assert shown in draw_table(name, _change(tmp_path, result, change))


def test_a_page_shows_facts_rows_and_machine_and_counts_what_is_long(tmp_path: Path) -> None:
    result = {
        "checkpoint": "bert|x",
        "accuracy": {"fp32": 0.123456789, "qat": None},
        "samples_ms": list(range(100)),
        "rows": [
            {"name": "a", "metrics": {"f1": 0.5}, "correct": "01" * 100, "trained": None},
            {"name": "b", "trained": {"steps": 3, "settings": {"rate": 1}}},
        ],
        "ranges": [{"amax": 1.0}] * 60,
        "environment": {"cpu": {"cores": 2}, "versions": {"torch": "2.13"}},
    }

    assert draw_page(tmp_path / "x_cpu_2026-01-01.json", result) == (
        "# x_cpu_2026-01-01\n\ncpu cores 2; versions torch 2.13\n\n"
        "| fact | value |\n|---|---|\n| checkpoint | bert\\|x |\n| accuracy fp32 | 0.12346 |\n| accuracy qat | - |\n"
        "| samples_ms | 100 values, in the JSON file |\n\n"
        "## rows\n\n| name | metrics f1 | trained steps |\n|---|---|---|\n| a | 0.5 | |\n| b | | 3 |\n\n"
        "## ranges\n\n60 rows, in the JSON file.\n"
    )


def test_the_command_tells_then_mends_what_is_out_of_step(tmp_path: Path) -> None:
    readme, results = tmp_path / "README.md", tmp_path / "results"
    results.mkdir()
    readme.write_text(BLOCK, encoding="utf-8")
    (results / "plans_epyc-2core_2026-01-01.json").write_text(
        json.dumps(Results().read("plans_epyc-2core")), encoding="utf-8"
    )
    words = ["--text", str(readme), "--results", str(results)]

    refused = CliRunner().invoke(app, [*words, "--check"])
    assert str(refused.exception) == (
        f"out of step with {results}: README.md (plans), plans_epyc-2core_2026-01-01.md: "
        "run python -m benchmarks.readme_tables"
    )
    assert readme.read_text(encoding="utf-8") == BLOCK

    assert CliRunner().invoke(app, words).exit_code == 0
    assert "| FP16 | 67/66 155.0 |" in readme.read_text(encoding="utf-8")
    done = CliRunner().invoke(app, [*words, "--check"])
    assert (done.exit_code, done.exception) == (0, None)
