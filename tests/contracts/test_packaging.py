"""What pyproject.toml promises is what lies on the disk, and every dependency is pinned within its range."""

import os
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.contracts.source_tree import PACKAGES, ROOT, packages_on_disk

NOT_IN_THE_ENVIRONMENT = {"tensorrt", "gpu"}
"""Extras that `make` does not install, so nothing pins them."""


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _installed_requirements(project: dict[str, Any]) -> Iterator[Requirement]:
    extras: dict[str, list[str]] = project["optional-dependencies"]
    installed = [text for name, texts in extras.items() if name not in NOT_IN_THE_ENVIRONMENT for text in texts]
    for text in (*project["dependencies"], *installed):
        requirement = Requirement(text)
        if requirement.name != project["name"]:
            yield requirement


def _pins() -> dict[str, Version]:
    lines = (ROOT / ".ci/constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def test_the_package_list_is_what_lies_on_the_disk(settings: dict[str, Any]) -> None:
    assert sorted(settings["tool"]["setuptools"]["packages"]) == list(packages_on_disk())


def test_every_pattern_of_package_data_finds_files(settings: dict[str, Any]) -> None:
    patterns = [
        f"{package.replace('.', '/')}/{pattern}"
        for package, patterns in settings["tool"]["setuptools"]["package-data"].items()
        for pattern in patterns
    ]

    assert [pattern for pattern in patterns if not any(path.is_file() for path in ROOT.glob(pattern))] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_ships_its_types(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()


def test_every_dependency_is_pinned_within_its_range(settings: dict[str, Any]) -> None:
    pins = _pins()
    wrong = [
        str(requirement)
        for requirement in _installed_requirements(settings["project"])
        if (pin := pins.get(canonicalize_name(requirement.name))) is None or pin not in requirement.specifier
    ]

    assert wrong == []


def test_the_changelog_speaks_of_this_version_or_of_what_is_unreleased(settings: dict[str, Any]) -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = [line for line in changelog.splitlines() if line.startswith("## ")]

    assert headings[0].startswith(("## [Unreleased]", f"## [{settings['project']['version']}]"))


def test_the_check_script_can_be_run() -> None:
    assert os.access(ROOT / ".ci/run", os.X_OK)
