"""What every program's main does: begin its log, heed signals, and end with a sentence where it cannot go on."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import structlog

from openimds.config import CommonConfig
from openimds.runtime import log_config, sd_notify

STOPPING = (signal.SIGTERM, signal.SIGINT)
PIPE_BYTES = 1 << 16
"""A pipe's whole capacity."""

log = structlog.get_logger(__name__)


class StartupError(Exception):
    """The program cannot do its job. The message says why, and what to do."""


def begin(config: CommonConfig) -> None:
    """Configure logging and say what is odd about the configuration files."""
    log_config.configure(config.log, config.program)
    for warning in config.warnings:
        log.warning("configuration", problem=warning)


class Signals:
    """SIGTERM and SIGINT ask to stop, SIGHUP to read the configuration again. For threaded programs.

    Nothing is done in Python's signal handlers. They run in the main thread only, between two of its instructions: not
    at all while it sleeps in a system call that another thread's signal does not interrupt, or that it was just about
    to enter; and within the very `Event.wait` whose lock `Event.set` would take. The interpreter's own handler, in
    whichever thread, writes the signal's number into a pipe, and a thread reads it there.

    >>> with Signals.heeded() as signals:
    ...     while not signals.stopped.wait(1): ...
    """

    def __init__(self, on_reload: Callable[[], None] | None = None) -> None:
        self.stopped = threading.Event()
        self._on_reload = on_reload
        self._reload_asked = threading.Event()
        self._ended = False

    @classmethod
    @contextmanager
    def heeded(cls, on_reload: Callable[[], None] | None = None) -> Iterator[Signals]:
        """From the main thread; `on_reload` runs in a thread of its own, never twice at once, and its errors are logged."""
        signals = cls(on_reload)
        reading, writing = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(writing, False)
        wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        previous = {number: signal.signal(number, _leave_to_the_pipe) for number in (*STOPPING, signal.SIGHUP)}
        reader = threading.Thread(target=signals._read, args=(reading,), name="signals", daemon=True)
        reader.start()
        threading.Thread(target=signals._reload, name="reload", daemon=True).start()
        try:
            yield signals
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup)
            os.close(writing)
            reader.join()
            os.close(reading)

    def wait(self) -> None:
        """Until somebody asks to stop."""
        self.stopped.wait()
        sd_notify.stopping()

    def _read(self, reading: int) -> None:
        """Until the other end is closed."""
        while numbers := os.read(reading, PIPE_BYTES):
            if signal.SIGHUP in numbers:
                self._reload_asked.set()
            if any(number in numbers for number in STOPPING):
                self.stopped.set()
        self._ended = True
        self._reload_asked.set()

    def _reload(self) -> None:
        while self._reload_asked.wait() and not self._ended:
            self._reload_asked.clear()
            if self._on_reload:
                self._reload_logged(self._on_reload)

    def _reload_logged(self, on_reload: Callable[[], None]) -> None:
        try:
            on_reload()
        except Exception as error:  # noqa: BLE001 - a bad file must not end a running program
            log.error(  # noqa: TRY400 - a sentence says it
                "the configuration was not read again", error=str(error)
            )


def _leave_to_the_pipe(_number: int, _frame: FrameType | None) -> None:
    """A signal without a handler would not be written into the pipe."""
