"""Tells the control API from time to time that this agent is alive."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

_log = structlog.get_logger(__name__)


class Heartbeat:
    """A thread that calls `beat` every `interval_seconds`; `beat` raises when it did not get through."""

    def __init__(self, beat: Callable[[], None], interval_seconds: float) -> None:
        self._beat = beat
        self._interval_seconds = interval_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._failing = False

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_seconds: float = 1.0) -> None:
        self._stopping.set()
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._beat()
            except Exception as error:  # noqa: BLE001 - the next beat may get through
                self._note_failure(error)
            else:
                self._failing = False
            self._stopping.wait(self._interval_seconds)

    def _note_failure(self, error: Exception) -> None:
        if not self._failing:
            _log.warning("the heartbeat does not get through", error=str(error))
        self._failing = True
