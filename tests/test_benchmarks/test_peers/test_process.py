"""How a peer's process ends."""

import sys
from pathlib import Path

from benchmarks.peers.process import run_process


def _run(folder: Path, code: str) -> str:
    return run_process([sys.executable, "-c", code], cwd=folder, threads=1, minutes=1)


def test_an_error_names_the_files_of_its_folder_by_their_names(tmp_path: Path) -> None:
    assert _run(tmp_path, "import os; raise SystemExit(f'the builder refuses {os.getcwd()}/graph.onnx')") == (
        "the builder refuses graph.onnx"
    )


def test_a_process_that_fails_without_a_word_is_told_by_its_status(tmp_path: Path) -> None:
    assert _run(tmp_path, "raise SystemExit(3)") == "exit status 3"


def test_a_process_that_ends_well_leaves_no_error(tmp_path: Path) -> None:
    assert _run(tmp_path, "import sys; sys.stderr.write('a warning')") == ""
