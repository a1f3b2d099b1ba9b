"""The life cycle of a program: start of the log, signal handling, and the error that ends a start."""

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
from openimds.runtime.host_checks import close_to_others

STOPPING = (signal.SIGTERM, signal.SIGINT)
PIPE_BYTES = 1 << 16
"""The default capacity of a pipe (pipe(7))."""

log = structlog.get_logger(__name__)


class StartupError(Exception):
    """The program cannot start or continue. The message states the reason and the remedy."""

    exit_code = 1


class WatchMissingError(StartupError):
    """The cloud lacks an API that the program needs, so that a restart cannot help."""

    exit_code = os.EX_CONFIG
    """78, which the units list in RestartPreventExitStatus= (sysexits.h, systemd.exec(5))."""


def begin(config: CommonConfig) -> None:
    """Configures logging, closes the state folder to other users, and logs the warnings of the configuration files."""
    log_config.configure(config.log, config.program)
    close_to_others(config.state_path)
    for warning in config.warnings:
        log.warning("configuration", problem=warning)


class Signals:
    """Signal handling of threaded programs: SIGTERM and SIGINT stop the program, SIGHUP reloads its configuration.

    Python's signal handlers do nothing here, because they run only in the main thread between two bytecodes. They are
    delayed while the main thread is in, or about to enter, a system call that the signal does not interrupt, and
    `Event.set` in a handler deadlocks if the main thread holds the lock of the same event in `Event.wait`. The
    interpreter's C handler instead writes the signal number into a pipe, and a thread reads the pipe.

    >>> with Signals.handled() as signals:
    ...     while not signals.stopped.wait(1): ...
    """

    def __init__(self, on_reload: Callable[[], None] | None = None) -> None:
        self.stopped = threading.Event()
        self._on_reload = on_reload
        self._reload_requested = threading.Event()
        self._ended = False

    @classmethod
    @contextmanager
    def handled(cls, on_reload: Callable[[], None] | None = None) -> Iterator[Signals]:
        """Handles signals while the block runs; only the main thread may call this method.

        `on_reload` runs in a thread of its own, one call at a time, and its errors are logged.
        """
        signals = cls(on_reload)
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(write_end, False)
        wakeup = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        previous = {number: signal.signal(number, _do_nothing) for number in (*STOPPING, signal.SIGHUP)}
        reader = threading.Thread(target=signals._read, args=(read_end,), name="signals", daemon=True)
        reader.start()
        threading.Thread(target=signals._reload, name="reload", daemon=True).start()
        try:
            yield signals
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup)
            os.close(write_end)
            reader.join()
            os.close(read_end)

    def wait(self) -> None:
        """Blocks until SIGTERM or SIGINT."""
        self.stopped.wait()
        sd_notify.stopping()

    def _read(self, read_end: int) -> None:
        """Runs until the write end is closed."""
        while numbers := os.read(read_end, PIPE_BYTES):
            if signal.SIGHUP in numbers:
                self._reload_requested.set()
            if any(number in numbers for number in STOPPING):
                self.stopped.set()
        self._ended = True
        self._reload_requested.set()

    def _reload(self) -> None:
        while self._reload_requested.wait() and not self._ended:
            self._reload_requested.clear()
            if self._on_reload:
                self._reload_logged(self._on_reload)

    def _reload_logged(self, on_reload: Callable[[], None]) -> None:
        try:
            on_reload()
        except Exception as error:  # noqa: BLE001 - an invalid file must not end a running program
            log.error("configuration reload failed", error=str(error))  # noqa: TRY400 - the message suffices


def _do_nothing(_number: int, _frame: FrameType | None) -> None:
    """The handler for `signal.signal`. The interpreter writes a signal into the pipe only if it has a Python handler."""
