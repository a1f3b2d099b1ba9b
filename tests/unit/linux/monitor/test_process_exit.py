from __future__ import annotations

import subprocess
import threading

from tests.waiting import HANG_SECONDS

from openimds.linux.monitor.process_exit import ProcessExitWatcher


def test_exit_of_each_watched_process_is_reported() -> None:
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


def test_exited_process_is_reported_once() -> None:
    heard = threading.Semaphore(0)
    deaths = ProcessExitWatcher(lambda pids: heard.release(len(pids)))
    process = subprocess.Popen(["true"])
    process.wait()
    deaths.watch([process.pid])
    assert heard.acquire(timeout=HANG_SECONDS)
    deaths.watch([process.pid])
    assert not heard.acquire(timeout=0.05)
    deaths.close()
