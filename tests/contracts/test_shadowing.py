"""A user's own export.py, the commonest script name there is, must not be taken for ours."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contracts.source_tree import PACKAGES

TIMEOUT = 300


def _run_python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )


def _message(intruder: Path, package: str) -> str:
    return (
        f"the folder or file {intruder} shadows qdq's own package '{package}': rename it or run qdq from another folder"
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_a_file_named_like_a_package_is_named_on_one_line(tmp_path: Path, package: str) -> None:
    intruder = tmp_path / f"{package}.py"
    intruder.write_text("raise SystemExit('the user script ran')\n", encoding="utf-8")

    done = _run_python(tmp_path, "-m", "qdq", "--help")

    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert done.stdout == ""
    assert line.endswith(_message(intruder, package))


@pytest.mark.parametrize("package", PACKAGES)
def test_a_folder_named_like_a_package_is_named_on_one_line(tmp_path: Path, package: str) -> None:
    intruder = tmp_path / package
    intruder.mkdir()
    (intruder / "__init__.py").write_text("raise SystemExit('the user package ran')\n", encoding="utf-8")

    done = _run_python(tmp_path, "-m", "qdq", "--help")

    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert line.endswith(_message(intruder, package))


def test_a_folder_without_code_is_named_too(tmp_path: Path) -> None:
    intruder = tmp_path / "export"
    intruder.mkdir()  # Python takes it for a namespace package, before it looks at an editable install

    done = _run_python(tmp_path, "-m", "qdq", "--help")

    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert line.endswith(_message(intruder, "export"))


def test_the_public_import_names_the_intruder_too(tmp_path: Path) -> None:
    intruder = tmp_path / "export.py"
    intruder.write_text("", encoding="utf-8")
    (tmp_path / "quantize.py").write_text("import qdq\n\nqdq.wrap\n", encoding="utf-8")

    done = _run_python(tmp_path, "quantize.py")

    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].endswith(_message(intruder, "export"))


def test_a_folder_without_intruders_is_fine(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("", encoding="utf-8")

    done = _run_python(tmp_path, "-m", "qdq", "--help")

    assert done.returncode == 0, done.stderr
