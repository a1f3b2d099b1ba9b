"""Log files do not grow without bound, and lose nothing when nobody writes at that very moment."""

from __future__ import annotations

from pathlib import Path

import pytest

from openimds.supervisor import supervisor


def test_a_large_one_becomes_the_older_one_and_its_writer_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "part.log"
    with path.open("ab", buffering=0) as writer:
        path.chmod(0o640)
        for round_number in range(3):
            writer.write(b"%d\n" % round_number * 100)
            assert supervisor.rotate_log(path, 150)
            writer.write(b"goes on\n")
            assert supervisor.rotated_path(path).read_bytes().endswith(b"%d\n" % round_number * 100)
            assert path.read_bytes() == b"goes on\n"
        assert supervisor.rotated_path(path).stat().st_mode & 0o777 == 0o640
    assert sorted(file.name for file in tmp_path.iterdir()) == ["part.log", "part.log.1"]


def test_a_small_one_and_one_that_is_not_there_are_left(tmp_path: Path) -> None:
    path = tmp_path / "part.log"
    assert not supervisor.rotate_log(path, 3)
    path.write_text("abc")
    assert not supervisor.rotate_log(path, 3)
    assert [file.name for file in tmp_path.iterdir()] == ["part.log"]


def test_the_bound_holds_where_nothing_can_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "part.log"
    path.write_text("abcd")

    def full(*_args: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pread", full)
    assert supervisor.rotate_log(path, 3)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("part.log", "")]
