"""Signals reach the program in whichever thread the kernel delivers them."""

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


def test_signal_in_another_thread_ends_the_wait_of_the_main_thread() -> None:
    is_waiting = threading.Event()

    def receive_signal() -> None:
        is_waiting.wait(HANG_SECONDS)
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    threading.Thread(target=receive_signal, daemon=True).start()
    with Signals.handled() as signals:
        is_waiting.set()
        assert signals.stopped.wait(HANG_SECONDS)


def test_signal_during_event_wait_causes_no_deadlock() -> None:
    """The main thread waits for the event in a loop while signals arrive as fast as possible."""
    ends = threading.Event()

    def storm() -> None:
        while not ends.is_set():
            os.kill(os.getpid(), signal.SIGINT)

    with Signals.handled() as signals:
        stormy = threading.Thread(target=storm, daemon=True)
        stormy.start()
        for _ in range(200):
            assert signals.stopped.wait(HANG_SECONDS)
            signals.stopped.clear()
        ends.set()
        stormy.join()


def test_hangups_are_coalesced_and_sigterm_is_not_lost() -> None:
    reloads: list[int] = []
    one_at_a_time = threading.Lock()
    reloaded = threading.Event()

    def reload() -> None:
        assert one_at_a_time.acquire(blocking=False)
        reloads.append(1)
        one_at_a_time.release()
        reloaded.set()

    with Signals.handled(on_reload=reload) as signals:
        for _ in range(1000):
            os.kill(os.getpid(), signal.SIGHUP)
        assert reloaded.wait(HANG_SECONDS)  # a program that is about to end need not reload
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.stopped.wait(HANG_SECONDS)
    assert len(reloads) <= 1000


def test_hanging_reload_does_not_delay_the_end_of_the_program() -> None:
    hangs, never = threading.Event(), threading.Event()

    def reload() -> None:
        hangs.set()
        never.wait(HANG_SECONDS)

    with Signals.handled(on_reload=reload) as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        assert hangs.wait(HANG_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.stopped.wait(HANG_SECONDS)
    never.set()


def test_previous_signal_handlers_are_restored() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    with Signals.handled():
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)] == before


PROGRAM = """
import signal, sys, threading
from openimds.runtime.lifecycle import Signals
with Signals.handled() as signals:
    print("handles signals", flush=True)
    threading.Thread(target=lambda: [sum(range(99)) for _ in iter(int, 1)], daemon=True).start()
    signals.wait()
print("ended", flush=True)
"""


@pytest.mark.parametrize("attempt", range(5))
def test_program_with_a_busy_thread_ends_at_the_first_sigterm(attempt: int, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, cwd=tmp_path) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"handles signals\n"
        program.send_signal(signal.SIGHUP)
        program.terminate()
        assert program.communicate(timeout=HANG_SECONDS)[0] == b"ended\n"
        assert program.returncode == 0
