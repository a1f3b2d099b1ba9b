from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from openimds.linux.monitor.inotify import DirectoryWatcher


@pytest.fixture
def folders() -> Iterator[DirectoryWatcher]:
    made = DirectoryWatcher()
    yield made
    made.close()


def _edit(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("edited")


def test_files_and_those_of_folders_belong_to_a_name(folders: DirectoryWatcher, tmp_path: Path) -> None:
    root, other = tmp_path / "dhcp", tmp_path / "netns"
    (root / "first").mkdir(parents=True)
    other.mkdir()
    folders.watch([root], [other])
    assert not folders.watch_new_ones()
    _edit(root / "first" / "host")
    _edit(root / "second.conf")
    _edit(other / "a.b")
    assert set(folders.changed()) == {(root, "first"), (root, "second.conf"), (other, "a.b")}
    (root / "third").mkdir()
    assert set(folders.changed()) == {(root, "third")}
    _edit(root / "third" / "host")
    assert set(folders.changed()) == {(root, "third")}


@pytest.mark.parametrize("is_moved", [False, True])
def test_a_folder_in_the_place_of_a_watched_one_is_watched(
    folders: DirectoryWatcher, tmp_path: Path, is_moved: bool
) -> None:
    root = tmp_path / "state" / "dhcp"
    folders.watch([root], [])
    assert root.is_dir()
    if is_moved:
        (root / "first").mkdir()
        root.rename(tmp_path / "away")
    else:
        shutil.rmtree(tmp_path / "state")
    (root / "first").mkdir(parents=True)
    list(folders.changed())
    assert folders.watch_new_ones()
    assert not folders.watch_new_ones()
    _edit(root / "first" / "host")
    _edit(root / "second.conf")
    assert set(folders.changed()) == {(root, "first"), (root, "second.conf")}
    if is_moved:
        _edit(tmp_path / "away" / "third.conf")
        assert set(folders.changed()) == set()


def test_one_that_is_gone_is_made_again_unless_it_is_somebody_elses(folders: DirectoryWatcher, tmp_path: Path) -> None:
    own, other = tmp_path / "dhcp", tmp_path / "netns"
    folders.watch([own], [other])
    assert not other.exists()
    assert not folders.watch_new_ones()
    own.rmdir()
    other.mkdir()
    list(folders.changed())
    assert folders.watch_new_ones()
    assert own.is_dir()
    _edit(own / "first.conf")
    _edit(other / "second")
    assert set(folders.changed()) == {(own, "first.conf"), (other, "second")}
    own.rmdir() if not any(own.iterdir()) else shutil.rmtree(own)
    own.write_text("a file of that name")
    list(folders.changed())
    assert not folders.watch_new_ones()
