"""Which things of the host an agent's things stand on, noted while they are looked at."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Literal

WatchKey = tuple[Literal["netns", "link", "process", "chain", "table", "host"], str]
"""`("netns", "qdhcp-…")`, `("link", "brq…")` of the root namespace, `("process", "4711")`, `("chain", "tap…")` of the
bridge family's table, `("table", "openimds")` of family inet.
"""
FORWARDING: WatchKey = ("host", "forwarding")
"""Whether the host's firewall looks at bridged packets, and what it does with those that no rule names."""


class ResourceIndex:
    """Key ↔ notes. Not for two threads at once; each has a present key of its own."""

    def __init__(self) -> None:
        self._keys: dict[WatchKey, set[str]] = defaultdict(set)
        self._notes: dict[str, set[WatchKey]] = {}
        self._present = threading.local()

    @property
    def key(self) -> str | None:
        """Whose things the calling thread looks at."""
        found: str | None = getattr(self._present, "key", None)
        return found

    def begin(self, key: str) -> None:
        """What the calling thread notes until `end` is `key`'s, and nothing else is from then on."""
        self._present.key, self._present.before = key, self._notes.get(key, set())
        self._notes[key] = set()

    def end(self) -> None:
        key, before = self._present.key, self._present.before
        self._present.key = None
        self._drop(key, before - self._notes.get(key, set()))

    def note(self, note: WatchKey) -> bool:
        """Whether it was noted: without a present key nobody asks for it."""
        key = self.key
        if key is None:
            return False
        self._notes[key].add(note)
        self._keys[note].add(key)
        return True

    def forget(self, key: str) -> None:
        self._drop(key, self._notes.pop(key, set()))

    def keys(self, note: WatchKey) -> frozenset[str]:
        return frozenset(self._keys.get(note, ()))

    def _drop(self, key: str, notes: set[WatchKey]) -> None:
        for note in notes:
            self._keys[note].discard(key)
            if not self._keys[note]:
                del self._keys[note]
