"""Signals are heeded by whichever thread they reach, and whatever the main thread does meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.waiting import HANG_SECONDS

from openimds.runtime.lifecycle import Signals

"""Only against waiting for ever."""


def test_a_signal_that_another_thread_takes_ends_the_main_threads_wait() -> None:
    aim = threading.Event()

    def be_hit() -> None:
        aim.wait(HANG_SECONDS)
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    threading.Thread(target=be_hit, daemon=True).start()
    with Signals.heeded() as signals:
        aim.set()
        assert signals.stopped.wait(HANG_SECONDS)


def test_a_signal_within_the_events_own_wait_does_not_lock_it() -> None:
    """The main thread asks the event without end while signals come in, as fast as they can, and answers the last."""
    ends = threading.Event()

    def storm() -> None:
        while not ends.is_set():
            os.kill(os.getpid(), signal.SIGINT)

    with Signals.heeded() as signals:
        stormy = threading.Thread(target=storm, daemon=True)
        stormy.start()
        for _ in range(200):
            assert signals.stopped.wait(HANG_SECONDS)
            signals.stopped.clear()
        ends.set()
        stormy.join()


def test_hangups_are_coalesced_and_hide_no_request_to_stop() -> None:
    reloads: list[int] = []
    one_at_a_time = threading.Lock()
    reloaded = threading.Event()

    def reload() -> None:
        assert one_at_a_time.acquire(blocking=False)
        reloads.append(1)
        one_at_a_time.release()
        reloaded.set()

    with Signals.heeded(on_reload=reload) as signals:
        for _ in range(1000):
            os.kill(os.getpid(), signal.SIGHUP)
        assert reloaded.wait(HANG_SECONDS)  # a program that is about to end need not reload
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.stopped.wait(HANG_SECONDS)
    assert len(reloads) <= 1000


def test_a_reload_that_hangs_does_not_keep_the_program_from_ending() -> None:
    hangs, never = threading.Event(), threading.Event()

    def reload() -> None:
        hangs.set()
        never.wait(HANG_SECONDS)

    with Signals.heeded(on_reload=reload) as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        assert hangs.wait(HANG_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.stopped.wait(HANG_SECONDS)
    never.set()


def test_what_was_there_before_is_there_again() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    with Signals.heeded():
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)] == before


PROGRAM = """
import signal, sys, threading
from openimds.runtime.lifecycle import Signals
with Signals.heeded() as signals:
    print("heeds", flush=True)
    threading.Thread(target=lambda: [sum(range(99)) for _ in iter(int, 1)], daemon=True).start()
    signals.wait()
print("ended", flush=True)
"""


@pytest.mark.parametrize("attempt", range(5))
def test_a_program_with_a_busy_thread_ends_at_the_first_sigterm(attempt: int, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, cwd=tmp_path) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"heeds\n"
        program.send_signal(signal.SIGHUP)
        program.terminate()
        assert program.communicate(timeout=HANG_SECONDS)[0] == b"ended\n"
        assert program.returncode == 0
