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

KEY: WatchKey = ("process", "1")


@pytest.fixture
def watcher() -> Iterator[DirectoryWatcher]:
    made = DirectoryWatcher()
    yield made
    made.close()


def _edit(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("edited")


def test_files_and_those_of_folders_belong_to_a_name(watcher: DirectoryWatcher, tmp_path: Path) -> None:
    root, other = tmp_path / "dhcp", tmp_path / "netns"
    (root / "first").mkdir(parents=True)
    other.mkdir()
    watcher.watch([root], [other])
    assert not watcher.rewatch_replaced()
    _edit(root / "first" / "host")
    _edit(root / "second.conf")
    _edit(other / "a.b")
    assert set(watcher.read_changes()) == {(root, "first"), (root, "second.conf"), (other, "a.b")}
    (root / "third").mkdir()
    assert set(watcher.read_changes()) == {(root, "third")}
    _edit(root / "third" / "host")
    assert set(watcher.read_changes()) == {(root, "third")}


@pytest.mark.parametrize("is_moved", [False, True])
def test_a_folder_in_the_place_of_a_watched_one_is_watched(
    watcher: DirectoryWatcher, tmp_path: Path, is_moved: bool
) -> None:
    root = tmp_path / "state" / "dhcp"
    watcher.watch([root], [])
    assert root.is_dir()
    if is_moved:
        (root / "first").mkdir()
        root.rename(tmp_path / "away")
    else:
        shutil.rmtree(tmp_path / "state")
    (root / "first").mkdir(parents=True)
    list(watcher.read_changes())
    assert watcher.rewatch_replaced()
    assert not watcher.rewatch_replaced()
    _edit(root / "first" / "host")
    _edit(root / "second.conf")
    assert set(watcher.read_changes()) == {(root, "first"), (root, "second.conf")}
    if is_moved:
        _edit(tmp_path / "away" / "third.conf")
        assert set(watcher.read_changes()) == set()


def test_one_that_is_gone_is_made_again_unless_it_is_somebody_elses(watcher: DirectoryWatcher, tmp_path: Path) -> None:
    own, other = tmp_path / "dhcp", tmp_path / "netns"
    watcher.watch([own], [other])
    assert not other.exists()
    assert not watcher.rewatch_replaced()
    own.rmdir()
    other.mkdir()
    list(watcher.read_changes())
    assert watcher.rewatch_replaced()
    assert own.is_dir()
    _edit(own / "first.conf")
    _edit(other / "second")
    assert set(watcher.read_changes()) == {(own, "first.conf"), (other, "second")}
    own.rmdir() if not any(own.iterdir()) else shutil.rmtree(own)
    own.write_text("a file of that name")
    list(watcher.read_changes())
    assert not watcher.rewatch_replaced()


@pytest.fixture
def polled() -> Iterator[PolledFiles]:
    with closing(PolledFiles()) as files:
        yield files


@pytest.mark.parametrize("name", ["sleep", "a) T (b"])
def test_a_process_that_is_stopped_is_seen(polled: PolledFiles, tmp_path: Path, name: str) -> None:
    """Whatever it is called."""
    program = tmp_path / name
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "1000"]) as process:
        try:
            polled.add(KEY, not_stopped(process.pid))
            assert polled.are_expected(KEY)
            os.kill(process.pid, signal.SIGSTOP)
            until(lambda: not polled.are_expected(KEY))
            os.kill(process.pid, signal.SIGCONT)
            until(lambda: polled.are_expected(KEY))
        finally:
            process.kill()
    assert polled.are_expected(KEY)  # its end is told of by others


def test_what_reads_otherwise_than_the_last_time_is_news_once(polled: PolledFiles, tmp_path: Path) -> None:
    switch, other = tmp_path / "switch", tmp_path / "other"
    switch.write_text("0\n")
    other.write_text("0\n")
    polled.add(KEY, unchanged([other, switch]))
    assert polled.are_expected(KEY)
    switch.write_text("1\n")
    assert not polled.are_expected(KEY)
    assert polled.are_expected(KEY)


def test_a_file_that_comes_later_is_opened_then_and_is_news(polled: PolledFiles, tmp_path: Path) -> None:
    switch = tmp_path / "switch"
    polled.add(KEY, unchanged([switch]))
    assert polled.are_expected(KEY)
    switch.write_text("0\n")
    polled.open_missing(KEY)
    assert not polled.are_expected(KEY)
    assert polled.are_expected(KEY)


def _opened(path: Path) -> int:
    """How often this process has it open."""
    return sum(one.is_symlink() and one.readlink() == path for one in Path("/proc/self/fd").iterdir())


def test_nothing_stays_open_of_what_was_kept_before(polled: PolledFiles, tmp_path: Path) -> None:
    switch = tmp_path / "switch"
    switch.write_text("0\n")
    for _ in range(3):
        polled.add(KEY, unchanged([switch]))
    assert _opened(switch) == 1
    polled.drop(KEY)
    assert KEY not in polled
    assert _opened(switch) == 0
