"""The test of a source file is found by the file's name or in tests/MAP.toml."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "src" / "openimds"
UNIT = ROOT / "tests" / "unit"
MAP: dict[str, list[str]] = tomllib.loads((ROOT / "tests" / "MAP.toml").read_text())


def test_every_source_file_has_a_test_found_by_name_or_in_the_map() -> None:
    sources = [path for path in SOURCES.rglob("*.py") if path.read_text().count("\n") > 3]
    missing = [name(path) for path in sources if not mirrored_tests(path) and name(path) not in MAP]
    assert sorted(missing) == []


def test_the_map_has_no_entry_for_a_file_that_is_found_by_name() -> None:
    assert [source for source in MAP if mirrored_tests(ROOT / source)] == []


def test_the_map_names_only_existing_files() -> None:
    assert [path for source, tests in MAP.items() for path in (source, *tests) if not (ROOT / path).is_file()] == []
    assert [source for source, tests in MAP.items() if not tests] == []


def test_the_map_is_sorted() -> None:
    assert list(MAP) == sorted(MAP)


def mirrored_tests(source: Path) -> list[Path]:
    """The unit tests whose names are made of the source file's name.

    `a/b.py` has `a/test_b.py`, and `a/test_b_<aspect>.py` unless a module `b_<aspect>` exists. A package without code of
    its own is tested by test_packages.py.
    """
    if source.name == "__init__.py":
        folder, stem = source.parent, source.parent.name
        if not has_code(source):
            return [UNIT / "test_packages.py"]
    else:
        folder, stem = source.parent, source.stem
    stems = {path.stem for path in folder.glob("*.py")} | {stem}
    tests = _tests_of(folder.relative_to(SOURCES)).glob(f"test_{stem}*.py")
    return [test for test in tests if stem == longest_prefix(test.stem.removeprefix("test_"), stems)]


def _tests_of(package: Path) -> Path:
    """The tests of `programs` start programs, so they are no unit tests."""
    return (UNIT.parent if package.parts[:1] == ("programs",) else UNIT) / package


def longest_prefix(name: str, stems: set[str]) -> str:
    return max((stem for stem in stems if name == stem or name.startswith(f"{stem}_")), key=len, default="")


def has_code(source: Path) -> bool:
    """Whether the module has statements beside its docstring, its imports and `__all__`."""
    return not all(is_declaration(node) for node in ast.parse(source.read_text()).body)


def is_declaration(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assign):
        return ast.unparse(node.targets[0]) == "__all__"
    return isinstance(node, ast.Import | ast.ImportFrom) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    )


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()
