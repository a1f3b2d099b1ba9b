from __future__ import annotations

from pathlib import Path

from openimds.agents.metadata.wanted_listeners import Namespaces


def test_names_that_came_went_or_were_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "netns"
    namespaces = Namespaces(folder)
    assert namespaces.read() == frozenset()
    folder.mkdir()
    for name in ("same", "anew", "gone"):
        (folder / name).touch()
    assert namespaces.read() == {"same", "anew", "gone"}
    assert namespaces.read() == frozenset()
    (folder / "gone").unlink()
    (tmp_path / "other").touch()  # beside the former one: it has another inode
    (tmp_path / "other").replace(folder / "anew")
    assert namespaces.read() == {"gone", "anew"}
