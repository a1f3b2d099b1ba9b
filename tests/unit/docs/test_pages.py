"""The pages of the documentation: length of paragraphs, and paths that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = [
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
]
PLACES = [ROOT, ROOT / "src" / "openimds", ROOT / "tests", ROOT / "tests" / "security"]
MAX_PARAGRAPH_CHARS = 600


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_paragraph_has_at_most_600_characters(page: Path) -> None:
    assert [text[:60] for text in paragraphs(page.read_text()) if len(text) > MAX_PARAGRAPH_CHARS] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_path_that_a_page_names_exists(page: Path) -> None:
    places = [*PLACES, *(place for place in (ROOT / "src" / "openimds").iterdir() if place.is_dir())]
    named = re.findall(r"`((?:[a-z0-9_]+/)*[a-z0-9_]+\.py)`", page.read_text())
    assert [path for path in named if not any((place / path).exists() for place in places)] == []


def test_a_list_item_and_a_wrapped_line_are_paragraphs() -> None:
    text = "# Title\none\ntwo\n\n- a\n  b\n- c\n\n```sh\nx\n```\n| a | b |\n1. d\n"
    assert paragraphs(text) == ["one two", "a b", "c", "d"]


def paragraphs(text: str) -> list[str]:
    """Paragraphs and list items, each in one line, without headings, tables and code."""
    found = [""]
    for line in re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL).splitlines():
        item = re.match(r" *(?:-|\d+\.) (.*)", line)
        if not line.strip() or line.startswith(("#", "|", "    ")):
            found.append("")
        elif item:
            found.append(item[1])
        else:
            found[-1] = f"{found[-1]} {line.strip()}".strip()
    return [paragraph for paragraph in found if paragraph]
