from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from openimds.runtime.lifecycle import StartupError
from openimds.supervisor.state_dir import Purge, StateDir


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_folders_and_files_have_restrictive_modes(tmp_path: Path) -> None:
    folder = StateDir(tmp_path / "s")
    folder.prepare()
    folder.write_secret_file("nova.conf", "x")
    assert (mode(folder.path), mode(folder.etc), mode(folder.etc / "nova.conf")) == (0o711, 0o700, 0o600)


def test_second_lock_is_rejected(tmp_path: Path) -> None:
    folder = StateDir(tmp_path / "s")
    folder.prepare()
    with folder.locked(), pytest.raises(StartupError, match="openimds is already up in"), folder.locked():
        pass
    with folder.locked():
        pass


def test_file_at_the_path_is_a_startup_error(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("")
    with pytest.raises(StartupError, match=r"the state folder .*/s cannot be written: (file exists|not a directory)"):
        StateDir(tmp_path / "s").prepare()


def test_read_only_folder_is_a_startup_error() -> None:
    # root may write everywhere except in the kernel's own file systems
    with pytest.raises(StartupError, match="cannot be written"):
        StateDir(Path("/proc/openimds")).prepare()


def test_full_disk_is_a_startup_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = os.statvfs_result((4096, 4096, 1000, 0, 0, 10, 10, 10, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _path: full)
    with pytest.raises(StartupError, match="is on a full disk"):
        StateDir(tmp_path / "s").prepare()


def test_path_too_long_for_sockets_is_a_startup_error(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="too long for the sockets"):
        StateDir(tmp_path / ("x" * 120)).prepare()


def test_purge_removes_own_files_and_returns_foreign_ones(tmp_path: Path) -> None:
    folder = StateDir(tmp_path / "s")
    folder.prepare()
    (folder.path / "openimds.sqlite").write_text("")
    (folder.path / "my notes").write_text("")
    assert folder.purge() == Purge(foreign=("my notes",))
    assert [entry.name for entry in folder.path.iterdir()] == ["my notes"]
    (folder.path / "my notes").unlink()
    assert folder.purge() == Purge()
    assert not folder.path.exists()
    assert folder.purge() == Purge()


def test_invalid_status_file_reads_as_empty(tmp_path: Path) -> None:
    folder = StateDir(tmp_path / "s")
    assert folder.read_status() == {}
    folder.prepare()
    folder.write_status({"parts": []})
    assert folder.read_status() == {"parts": []}
    (folder.run / "status.json").write_text("[1")
    assert folder.read_status() == {}
