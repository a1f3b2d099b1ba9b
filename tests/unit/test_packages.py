"""A package's docstring names the package's modules."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "src" / "openimds"
PACKAGES = [path.parent for path in sorted(SOURCES.rglob("__init__.py")) if "migrations" not in path.parts]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.relative_to(SOURCES).as_posix())
def test_docstring_of_a_package_names_all_its_modules(package: Path) -> None:
    text = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    assert sorted(modules(package) - set(re.findall(r"\w+", text))) == []


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.relative_to(SOURCES).as_posix())
def test_docstring_of_a_package_lists_no_module_that_does_not_exist(package: Path) -> None:
    text = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    entries = re.findall(r"(?m)^- ([`\w., /]+?):", text)
    listed = {module for entry in entries for module in re.findall(r"`(\w+)(?:\.py|/)?`", entry)}
    assert sorted(listed - modules(package)) == []


def modules(package: Path) -> set[str]:
    found = {path.stem for path in package.glob("*.py")}
    found |= {path.parent.name for path in package.glob("*/__init__.py")}
    return found - {"__init__", "__main__"}
