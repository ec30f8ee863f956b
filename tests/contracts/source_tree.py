"""The project's own source as the contracts see it: folders, modules, syntax trees."""

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

FLOW = ("qat", "calibration", "export", "benchmarks", "qdq")
"""The packages in the order the data flows, and the front door; imports point left."""

PACKAGES = FLOW[:-1]

TOP_LEVEL = {"pyproject.toml", "README.md", "Makefile", "LICENSE", "CHANGELOG.md", "qdq.py", "tests", *PACKAGES}

GENERATED = {"build", "dist", "runs", "__pycache__"}
"""What the tools leave at the top level; version control ignores it."""


@dataclass(frozen=True)
class Module:
    """One source file: its dotted name, its text and its syntax tree."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def place(self) -> str:
        """The path from the project's root, for messages."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def package(self) -> str:
        """The part of the flow it belongs to, or ``tests``."""
        return self.name.partition(".")[0]


def _dotted_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _read_modules(paths: list[Path]) -> tuple[Module, ...]:
    texts = [(path, path.read_text(encoding="utf-8")) for path in sorted(paths)]
    return tuple(Module(_dotted_name(path), path, text, ast.parse(text)) for path, text in texts)


@cache
def product_modules() -> tuple[Module, ...]:
    """Every module that is shipped, the front door included."""
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return _read_modules([*paths, ROOT / "qdq.py"])


@cache
def modules_of_tests() -> tuple[Module, ...]:
    """Every module below ``tests``."""
    return _read_modules(list((ROOT / "tests").rglob("*.py")))


@cache
def packages_on_disk() -> tuple[str, ...]:
    """The dotted name of every folder that is shipped as a package."""
    found = [_dotted_name(path) for package in PACKAGES for path in (ROOT / package).rglob("__init__.py")]
    return tuple(sorted(found))


def imported_names(module: Module) -> list[tuple[str, int]]:
    """What a module imports, anywhere in it, as dotted names with line numbers.

    ``from a import b`` counts as ``a.b``, which is the module ``a.b`` or a name in the module ``a``.
    """
    found: list[tuple[str, int]] = []
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
    return found
