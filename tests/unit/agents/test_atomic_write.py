from __future__ import annotations

from pathlib import Path

from openimds.agents.atomic_write import write_if_changed


def test_file_is_written_only_if_the_content_differs(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    assert write_if_changed(path, "one", 0o640)
    written_at = path.stat().st_mtime_ns
    assert path.stat().st_mode & 0o777 == 0o640
    assert not write_if_changed(path, "one")
    assert path.stat().st_mtime_ns == written_at
    assert write_if_changed(path, "two")
    assert path.read_text() == "two"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]
