"""What every program's main does: begin its log, heed signals, and end with a sentence where it cannot go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import structlog

from openimds.config import CommonConfig
from openimds.daemons import logs, notify

log = structlog.get_logger(__name__)


class CannotStartError(Exception):
    """The program cannot do its job. The message says why, and what to do."""


def begin(config: CommonConfig) -> None:
    """Configure logging and say what is odd about the configuration files."""
    logs.configure(config.log, config.program)
    for warning in config.warnings:
        log.warning("configuration", problem=warning)


class Signals:
    """SIGTERM and SIGINT ask to stop, SIGHUP to read the configuration again. For threaded programs.

    >>> with Signals.heeded() as signals:
    ...     while not signals.stopped.wait(1): ...
    """

    def __init__(self, on_reload: Callable[[], None] | None = None) -> None:
        self.stopped = threading.Event()
        self._on_reload = on_reload

    @classmethod
    @contextmanager
    def heeded(cls, on_reload: Callable[[], None] | None = None) -> Iterator[Signals]:
        """From the main thread; `on_reload` runs in a thread of its own and its errors are logged."""
        signals = cls(on_reload)
        previous = {
            signal.SIGTERM: signal.signal(signal.SIGTERM, signals._stop),
            signal.SIGINT: signal.signal(signal.SIGINT, signals._stop),
            signal.SIGHUP: signal.signal(signal.SIGHUP, signals._reload),
        }
        try:
            yield signals
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def wait(self) -> None:
        """Until somebody asks to stop."""
        # A wait without an end would not let CPython run the signal's handler on every platform.
        while not self.stopped.wait(1.0):
            pass
        notify.stopping()

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stopped.set()

    def _reload(self, _number: int, _frame: FrameType | None) -> None:
        if self._on_reload:
            threading.Thread(target=self._reload_logged, name="reload", daemon=True).start()

    def _reload_logged(self) -> None:
        assert self._on_reload
        try:
            self._on_reload()
        except Exception as error:  # noqa: BLE001 - a bad file must not end a running program
            log.error(  # noqa: TRY400 - a sentence says it
                "the configuration was not read again", error=str(error)
            )
