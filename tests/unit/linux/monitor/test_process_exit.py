from __future__ import annotations

import subprocess
import threading

from tests.waiting import HANG_SECONDS

from openimds.linux.monitor.process_exit import ProcessExitWatcher


def test_exit_of_each_watched_process_is_reported() -> None:
    reported = threading.Semaphore(0)
    watcher = ProcessExitWatcher(lambda pids: reported.release(len(pids)))
    first, second, third = (subprocess.Popen(["sleep", "60"]) for _ in range(3))
    try:
        watcher.watch([first.pid, second.pid])
        first.kill()
        assert reported.acquire(timeout=HANG_SECONDS)
        watcher.watch([third.pid])
        second.kill()
        second.wait()
        assert not reported.acquire(timeout=0.05)
        third.kill()
        assert reported.acquire(timeout=HANG_SECONDS)
    finally:
        for process in (first, second, third):
            process.kill()
            process.wait()
        watcher.close()


def test_exited_process_is_reported_once() -> None:
    reported = threading.Semaphore(0)
    watcher = ProcessExitWatcher(lambda pids: reported.release(len(pids)))
    process = subprocess.Popen(["true"])
    process.wait()
    watcher.watch([process.pid])
    assert reported.acquire(timeout=HANG_SECONDS)
    watcher.watch([process.pid])
    assert not reported.acquire(timeout=0.05)
    watcher.close()
