"""The rotation of log files by the supervisor."""

from __future__ import annotations

from pathlib import Path

import pytest

from openimds.supervisor import supervisor


def test_large_file_is_rotated_and_its_writer_continues(tmp_path: Path) -> None:
    path = tmp_path / "part.log"
    with path.open("ab", buffering=0) as writer:
        path.chmod(0o640)
        for round_number in range(3):
            writer.write(b"%d\n" % round_number * 100)
            assert supervisor.rotate_log(path, 150)
            writer.write(b"continues\n")
            assert supervisor.rotated_path(path).read_bytes().endswith(b"%d\n" % round_number * 100)
            assert path.read_bytes() == b"continues\n"
        assert supervisor.rotated_path(path).stat().st_mode & 0o777 == 0o640
    assert sorted(file.name for file in tmp_path.iterdir()) == ["part.log", "part.log.1"]


def test_small_and_missing_files_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "part.log"
    assert not supervisor.rotate_log(path, 3)
    path.write_text("abc")
    assert not supervisor.rotate_log(path, 3)
    assert [file.name for file in tmp_path.iterdir()] == ["part.log"]


def test_file_is_truncated_even_if_the_copy_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "part.log"
    path.write_text("abcd")

    def full(*_args: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pread", full)
    assert supervisor.rotate_log(path, 3)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("part.log", "")]
