"""What was found out a moment ago, for a moment."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

MAX_ENTRIES = 4096


class TtlCache(Generic[Key, Value]):
    """A small table whose entries end by themselves. `clock` gives seconds that never go back."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._entries: dict[Key, tuple[float, Value]] = {}

    def get(self, key: Key) -> Value | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        ends_at, value = entry
        if ends_at <= self._clock():
            del self._entries[key]
            return None
        return value

    def put(self, key: Key, value: Value, seconds: float) -> None:
        """Remember for `seconds`; when there are too many, the oldest goes."""
        self._entries.pop(key, None)
        if len(self._entries) >= MAX_ENTRIES:
            del self._entries[next(iter(self._entries))]
        self._entries[key] = (self._clock() + seconds, value)

    def forget(self, key: Key) -> None:
        self._entries.pop(key, None)
