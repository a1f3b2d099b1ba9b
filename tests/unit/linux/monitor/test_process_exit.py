from __future__ import annotations

import subprocess
import threading

from tests.waiting import HANG_SECONDS

from openimds.linux.monitor.process_exit import ProcessExitWatcher


def test_each_watched_end_is_heard() -> None:
    heard = threading.Semaphore(0)
    deaths = ProcessExitWatcher(lambda pids: heard.release(len(pids)))
    first, second, third = (subprocess.Popen(["sleep", "60"]) for _ in range(3))
    try:
        deaths.watch([first.pid, second.pid])
        first.kill()
        assert heard.acquire(timeout=HANG_SECONDS)
        deaths.watch([third.pid])
        second.kill()
        second.wait()
        assert not heard.acquire(timeout=0.05)
        third.kill()
        assert heard.acquire(timeout=HANG_SECONDS)
    finally:
        for process in (first, second, third):
            process.kill()
            process.wait()
        deaths.close()


def test_one_that_is_gone_already_counts() -> None:
    heard = threading.Semaphore(0)
    deaths = ProcessExitWatcher(lambda pids: heard.release(len(pids)))
    process = subprocess.Popen(["true"])
    process.wait()
    deaths.watch([process.pid])
    assert heard.acquire(timeout=HANG_SECONDS)
    deaths.watch([process.pid])
    assert not heard.acquire(timeout=0.05)
    deaths.close()
