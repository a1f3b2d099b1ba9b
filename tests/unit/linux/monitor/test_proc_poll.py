"""What nobody tells of is read: a stopped process, a switch that somebody turned."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.waiting import until

from openimds.linux.monitor.proc_poll import PolledFiles, runs, unchanged
from openimds.linux.monitor.resource_index import WatchKey

NOTE: WatchKey = ("process", "1")


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
            kept.keep(NOTE, runs(process.pid))
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
