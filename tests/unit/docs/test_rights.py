from __future__ import annotations

from pathlib import Path

from scripts.docgen.rights import rights_page

ROOT = Path(__file__).parents[3]


def test_the_page_of_rights_is_current() -> None:
    assert (ROOT / "docs" / "rights.md").read_text() == rights_page(), "run `make docs`"
