from __future__ import annotations

from pathlib import Path

import pytest
from scripts.docgen.pictures import is_current

PICTURES = sorted((Path(__file__).parents[3] / "docs" / "pictures").glob("*.dot"))


@pytest.mark.parametrize("source", PICTURES, ids=lambda source: source.stem)
def test_a_picture_is_drawn_from_its_present_source(source: Path) -> None:
    assert is_current(source), "run `make docs`"


def test_a_changed_source_makes_its_picture_stale(tmp_path: Path) -> None:
    source = tmp_path / "path.dot"
    source.write_text("digraph { a -> b }")
    assert not is_current(source)
