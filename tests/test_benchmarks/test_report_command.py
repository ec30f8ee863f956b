"""A kept report gives its page again."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.readme_tables.registry import Results
from benchmarks.report import render_page
from benchmarks.report_command import app, read_report
from qat.errors import DataError


def test_every_journey_among_the_results_gives_a_page(tmp_path: Path) -> None:
    journeys = [path for path in Results().paths() if path.name.startswith("journey-")]

    assert len(journeys) >= 6
    for path in journeys:
        assert "None" not in render_page(read_report(path)), path.name


def test_the_page_is_that_of_the_facts(tmp_path: Path) -> None:
    facts = {"checkpoint": "bert", "accuracy": {"metric": "accuracy", "n": 100, "fp32": 0.8, "ptq": 0.79}}
    kept = tmp_path / "kept.json"
    kept.write_text(json.dumps(facts), encoding="utf-8")

    done = CliRunner().invoke(app, [str(kept), "--out", str(tmp_path / "again")])
    assert (done.exit_code, done.exception) == (0, None)
    assert (tmp_path / "again" / "report.html").read_text(encoding="utf-8") == render_page(facts)
    assert json.loads((tmp_path / "again" / "report.json").read_text(encoding="utf-8")) == facts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"no file .*kept\.json: expected the report\.json of qdq run; give its path"),
        ("{", r"kept\.json is no JSON \(.*\): expected the report\.json of qdq run; give its path"),
        ("[]", r"kept\.json is no report: expected the report\.json of qdq run, which has an 'accuracy'"),
        ("{}", r"kept\.json is no report"),
    ],
)
def test_what_is_no_report_is_refused(text: str | None, message: str, tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    if text is not None:
        kept.write_text(text, encoding="utf-8")

    with pytest.raises(DataError, match=message):
        read_report(kept)
