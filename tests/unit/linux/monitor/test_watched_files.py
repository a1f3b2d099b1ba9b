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


def test_change_is_reported_by_its_first_path_component(watcher: DirectoryWatcher, tmp_path: Path) -> None:
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
def test_replaced_directory_is_watched_again(watcher: DirectoryWatcher, tmp_path: Path, is_moved: bool) -> None:
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


def test_deleted_own_directory_is_created_again(watcher: DirectoryWatcher, tmp_path: Path) -> None:
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
def test_stopped_process_is_unexpected(polled: PolledFiles, tmp_path: Path, name: str) -> None:
    """The name of the process does not matter."""
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
    assert polled.are_expected(KEY)  # other events report the exit


def test_changed_content_is_unexpected_once(polled: PolledFiles, tmp_path: Path) -> None:
    switch, other = tmp_path / "switch", tmp_path / "other"
    switch.write_text("0\n")
    other.write_text("0\n")
    polled.add(KEY, unchanged([other, switch]))
    assert polled.are_expected(KEY)
    switch.write_text("1\n")
    assert not polled.are_expected(KEY)
    assert polled.are_expected(KEY)


def test_file_created_later_is_opened_and_unexpected_once(polled: PolledFiles, tmp_path: Path) -> None:
    switch = tmp_path / "switch"
    polled.add(KEY, unchanged([switch]))
    assert polled.are_expected(KEY)
    switch.write_text("0\n")
    polled.open_missing(KEY)
    assert not polled.are_expected(KEY)
    assert polled.are_expected(KEY)


def _opened(path: Path) -> int:
    """The number of descriptors of this process that refer to the path."""
    return sum(one.is_symlink() and one.readlink() == path for one in Path("/proc/self/fd").iterdir())


def test_former_files_of_a_key_are_closed(polled: PolledFiles, tmp_path: Path) -> None:
    switch = tmp_path / "switch"
    switch.write_text("0\n")
    for _ in range(3):
        polled.add(KEY, unchanged([switch]))
    assert _opened(switch) == 1
    polled.drop(KEY)
    assert KEY not in polled
    assert _opened(switch) == 0
