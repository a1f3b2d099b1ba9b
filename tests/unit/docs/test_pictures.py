from __future__ import annotations

import re
from pathlib import Path

import pytest
from scripts.docgen.pictures import is_current

ROOT = Path(__file__).parents[3]
SOURCES = ROOT / "src" / "openimds"
THREAD = r'(?:name=|repeating\(|ThreadPoolExecutor\(\w+, )f?"'
"""The text before the name of a thread or of a pool of threads."""
PICTURES = sorted((ROOT / "docs" / "pictures").glob("*.dot"))


@pytest.mark.parametrize("source", PICTURES, ids=lambda source: source.stem)
def test_a_picture_is_drawn_from_its_present_source(source: Path) -> None:
    assert is_current(source), "run `make docs`"


def test_a_changed_source_makes_its_picture_stale(tmp_path: Path) -> None:
    source = tmp_path / "path.dot"
    source.write_text("digraph { a -> b }")
    assert not is_current(source)


@pytest.mark.parametrize("source", PICTURES, ids=lambda source: source.stem)
def test_a_class_or_thread_in_a_picture_exists(source: Path) -> None:
    code = "".join(path.read_text() for path in SOURCES.rglob("*.py"))
    labels = " ".join(re.findall(r'label="((?:[^"\\]|\\.)*)"', source.read_text())).replace("\\n", " ")
    classes = set(re.findall(r"\b(?:[A-Z][a-z]+){2,}\b", labels))
    threads = re.findall(r'threads? \\"([^"\\…]*)', labels)
    assert [name for name in classes if f"class {name}" not in code] == []
    assert [name for name in threads if not re.search(THREAD + re.escape(name), code)] == []
