"""Which keys are to be looked at, and when: not at once again, since what a guest does to its own NIC is heard too."""

from __future__ import annotations

import time
from collections.abc import Iterable

LOOKS_APART_SECONDS = 0.5
"""Between two looks at one thing because of news."""
LOOK_AGAIN_SECONDS = 2.0


class Debouncer:
    """Not for two threads at once."""

    def __init__(self) -> None:
        self._touched: set[str] = set()
        self._next_look: dict[str, float] = {}
        self._later: dict[str, float] = {}
        """When it is to be named though nothing is heard of it."""

    def __bool__(self) -> bool:
        return bool(self._touched)

    def add(self, keys: Iterable[str]) -> None:
        self._touched.update(keys)

    def add_later(self, key: str) -> None:
        self._later[key] = time.monotonic() + LOOK_AGAIN_SECONDS

    def discard(self, key: str) -> None:
        """It is about to be looked at."""
        self._touched.discard(key)

    def forget(self, key: str) -> None:
        self._touched.discard(key)
        self._next_look.pop(key, None)
        self._later.pop(key, None)

    def take(self) -> frozenset[str]:
        """Those that are due; they come no more until something is new."""
        now = time.monotonic()
        late = [key for key, at in self._later.items() if at <= now]
        self._touched.update(late)
        for key in late:
            del self._later[key]
        self._next_look = {key: at for key, at in self._next_look.items() if at > now}  # keys of no thing come too
        due = frozenset(self._touched - self._next_look.keys())
        self._touched -= due
        self._next_look.update(dict.fromkeys(due, now + LOOKS_APART_SECONDS))
        return due

    @property
    def seconds_to_next(self) -> float | None:
        """None: when something is new."""
        times = [*self._later.values(), *(self._next_look.get(key, 0.0) for key in self._touched)]
        return max(0.0, min(times) - time.monotonic()) if times else None
