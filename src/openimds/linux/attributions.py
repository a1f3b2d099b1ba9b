"""Which things of the host an agent's things stand on, noted while they are looked at."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

Note = tuple[Literal["netns", "link", "process", "chain", "table", "host"], str]
"""`("netns", "qdhcp-…")`, `("link", "brq…")` of the root namespace, `("process", "4711")`, `("chain", "tap…")` of the
bridge family's table, `("table", "openimds")` of family inet.
"""
FORWARDING: Note = ("host", "forwarding")
"""Whether the host's firewall looks at bridged packets, and what it does with those that no rule names."""


class Attributions:
    """Key ↔ notes. Not for two threads at once, but for the block: each thread has its own."""

    def __init__(self) -> None:
        self._keys: dict[Note, set[str]] = defaultdict(set)
        self._notes: dict[str, set[Note]] = {}
        self._present = threading.local()

    @property
    def key(self) -> str | None:
        """Whose block the calling thread is in."""
        found: str | None = getattr(self._present, "key", None)
        return found

    @contextmanager
    def of(self, key: str) -> Iterator[None]:
        """What is noted in the block is `key`'s, and nothing else is from its end on."""
        before = self._notes.get(key, set())
        self._present.key, self._notes[key] = key, set()
        try:
            yield
        finally:
            self._present.key = None
            self._drop(key, before - self._notes[key])

    def note(self, note: Note) -> bool:
        """Whether it was noted: outside any block nobody asks for it."""
        key = self.key
        if key is None:
            return False
        self._notes[key].add(note)
        self._keys[note].add(key)
        return True

    def forget(self, key: str) -> None:
        self._drop(key, self._notes.pop(key, set()))

    def keys(self, note: Note) -> frozenset[str]:
        return frozenset(self._keys.get(note, ()))

    def _drop(self, key: str, notes: set[Note]) -> None:
        for note in notes:
            self._keys[note].discard(key)
            if not self._keys[note]:
                del self._keys[note]
