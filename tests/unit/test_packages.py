"""A package's docstring lists the package's modules."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "src"
HEADING = "Modules, in reading order:"
PACKAGES = [path.parent for path in sorted(SOURCES.rglob("__init__.py")) if HEADING in path.read_text()]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.relative_to(SOURCES).as_posix())
def test_the_list_of_modules_in_a_packages_docstring_is_complete(package: Path) -> None:
    assert listed(package) == modules(package)


def listed(package: Path) -> set[str]:
    text = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    entries = re.findall(r"(?m)^- (`.*?`):", text.partition(HEADING)[2])
    return {module for entry in entries for module in re.findall(r"`(\w+)(?:\.py|/)?`", entry)}


def modules(package: Path) -> set[str]:
    found = {path.stem for path in package.glob("*.py")}
    found |= {path.parent.name for path in package.glob("*/__init__.py")}
    return found - {"__init__", "__main__"}
