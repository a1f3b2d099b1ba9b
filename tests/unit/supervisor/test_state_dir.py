from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from openimds.runtime.lifecycle import StartupError
from openimds.supervisor.state_dir import StateDir


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_who_may_look_into_it(tmp_path: Path) -> None:
    folder = StateDir(tmp_path / "s")
    folder.prepare()
    folder.write_secret_file("nova.conf", "x")
    assert (mode(folder.path), mode(folder.etc), mode(folder.etc / "nova.conf")) == (0o711, 0o700, 0o600)


def test_twice_is_refused_with_a_sentence(tmp_path: Path) -> None:
    folder = StateDir(tmp_path / "s")
    folder.prepare()
    with folder.locked(), pytest.raises(StartupError, match="openimds is up already in"), folder.locked():
        pass
    with folder.locked():
        pass


def test_a_file_in_its_place_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("")
    with pytest.raises(StartupError, match=r"the state folder .*/s cannot be written: (file exists|not a directory)"):
        StateDir(tmp_path / "s").prepare()


def test_a_read_only_folder_is_a_sentence() -> None:
    # root may write anywhere but in the kernel's own file systems
    with pytest.raises(StartupError, match="cannot be written"):
        StateDir(Path("/proc/openimds")).prepare()


def test_a_full_disk_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = os.statvfs_result((4096, 4096, 1000, 0, 0, 10, 10, 10, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _path: full)
    with pytest.raises(StartupError, match="is on a full disk"):
        StateDir(tmp_path / "s").prepare()


def test_a_path_that_no_socket_can_have(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="too long for the sockets"):
        StateDir(tmp_path / ("x" * 120)).prepare()


def test_purge_removes_what_is_ours_and_names_the_rest(tmp_path: Path) -> None:
    folder = StateDir(tmp_path / "s")
    folder.prepare()
    (folder.path / "openimds.sqlite").write_text("")
    (folder.path / "my notes").write_text("")
    assert folder.purge() == ("my notes",)
    assert [entry.name for entry in folder.path.iterdir()] == ["my notes"]
    (folder.path / "my notes").unlink()
    assert folder.purge() == ()
    assert not folder.path.exists()
    assert folder.purge() == ()


def test_a_status_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    folder = StateDir(tmp_path / "s")
    assert folder.read_status() == {}
    folder.prepare()
    folder.write_status({"parts": []})
    assert folder.read_status() == {"parts": []}
    (folder.run / "status.json").write_text("[1")
    assert folder.read_status() == {}
