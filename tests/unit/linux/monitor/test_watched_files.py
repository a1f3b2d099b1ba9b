from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.waiting import until

from openimds.linux.monitor.resource_index import WatchKey
from openimds.linux.monitor.watched_files import DirectoryWatcher, PolledFiles, not_stopped, unchanged

NOTE: WatchKey = ("process", "1")


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


@pytest.fixture
def kept() -> Iterator[PolledFiles]:
    with closing(PolledFiles()) as files:
        yield files


@pytest.mark.parametrize("name", ["sleep", "a) T (b"])
def test_a_process_that_is_stopped_is_seen(kept: PolledFiles, tmp_path: Path, name: str) -> None:
    """Whatever it is called."""
    program = tmp_path / name
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "1000"]) as process:
        try:
            kept.keep(NOTE, not_stopped(process.pid))
            assert kept.is_right(NOTE)
            os.kill(process.pid, signal.SIGSTOP)
            until(lambda: not kept.is_right(NOTE))
            os.kill(process.pid, signal.SIGCONT)
            until(lambda: kept.is_right(NOTE))
        finally:
            process.kill()
    assert kept.is_right(NOTE)  # its end is told of by others


def test_what_reads_otherwise_than_the_last_time_is_news_once(kept: PolledFiles, tmp_path: Path) -> None:
    switch, other = tmp_path / "switch", tmp_path / "other"
    switch.write_text("0\n")
    other.write_text("0\n")
    kept.keep(NOTE, unchanged([other, switch]))
    assert kept.is_right(NOTE)
    switch.write_text("1\n")
    assert not kept.is_right(NOTE)
    assert kept.is_right(NOTE)


def test_a_file_that_comes_later_is_opened_then_and_is_news(kept: PolledFiles, tmp_path: Path) -> None:
    switch = tmp_path / "switch"
    kept.keep(NOTE, unchanged([switch]))
    assert kept.is_right(NOTE)
    switch.write_text("0\n")
    kept.come(NOTE)
    assert not kept.is_right(NOTE)
    assert kept.is_right(NOTE)


def _opened(path: Path) -> int:
    """How often this process has it open."""
    return sum(one.is_symlink() and one.readlink() == path for one in Path("/proc/self/fd").iterdir())


def test_nothing_stays_open_of_what_was_kept_before(kept: PolledFiles, tmp_path: Path) -> None:
    switch = tmp_path / "switch"
    switch.write_text("0\n")
    for _ in range(3):
        kept.keep(NOTE, unchanged([switch]))
    assert _opened(switch) == 1
    kept.drop(NOTE)
    assert NOTE not in kept
    assert _opened(switch) == 0
