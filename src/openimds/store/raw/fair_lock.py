"""A lock that threads get in the order in which they requested it."""

from __future__ import annotations

import threading
from collections import deque


class FairLock:
    """`threading.Lock` has no order: a thread that releases it and requests it again gets it before a waiting thread."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._is_taken = False
        self._waiting: deque[threading.Event] = deque()

    def acquire(self, timeout: float) -> bool:
        """Waits for the lock for `timeout` seconds. Returns False if the thread did not get it."""
        turn = threading.Event()
        with self._mutex:
            if not self._is_taken:
                self._is_taken = True
                return True
            self._waiting.append(turn)
        if turn.wait(timeout):
            return True
        with self._mutex:
            if turn.is_set():  # the lock was handed over just after the timeout
                return True
            self._waiting.remove(turn)
            return False

    def release(self) -> None:
        """Hands the lock over to the thread that waits longest."""
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._is_taken = False
