"""Packages import each other only as docs/architecture.md draws it, and without cycles."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

# the other packages that each package may import
ALLOWED = {
    "data_prep": set(),
    "eval": {"data_prep"},
    "training": {"data_prep", "eval"},
    "chat": {"data_prep", "eval"},
    "scripts": {"data_prep", "eval", "training", "chat"},
}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ALLOWED
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imports_of(path: Path) -> Iterator[str]:
    """Yield our modules that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        else:
            continue
        yield from (name for name in names if name in MODULES)


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_only_packages_below_them(package: str) -> None:
    wrong = [
        f"{name} imports {other}"
        for name, path in MODULES.items()
        if name.split(".")[0] == package
        for other in imports_of(path)
        if other.split(".")[0] not in ALLOWED[package] | {package}
    ]
    assert wrong == []


def test_no_import_cycles() -> None:
    imported = {name: set(imports_of(path)) - {name} for name, path in MODULES.items()}
    while leaves := {name for name, others in imported.items() if not others}:
        imported = {n: others - leaves for n, others in imported.items() if n not in leaves}
    assert imported == {}, "in a cycle, or importing one"
