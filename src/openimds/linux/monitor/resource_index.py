"""The kernel objects that each of an agent's resources depends on, recorded while they are read."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Literal

WatchKey = tuple[Literal["netns", "link", "process", "chain", "table", "host"], str]
"""Kind and name of a kernel object.

`("netns", "qdhcp-…")`, `("link", "brq…")` in the root namespace, `("process", "4711")`, `("chain", "tap…")` in the
table of family bridge, `("table", "openimds")` of family inet.
"""
FORWARDING: WatchKey = ("host", "forwarding")
"""The policy of the host's FORWARD chains, and the sysctls that pass bridged packets to them."""


class ResourceIndex:
    """Resources ↔ watch keys. Not thread-safe, but each thread has a current resource of its own."""

    def __init__(self) -> None:
        self._resources: dict[WatchKey, set[str]] = defaultdict(set)
        self._keys: dict[str, set[WatchKey]] = {}
        self._thread = threading.local()

    @property
    def current(self) -> str | None:
        """The resource that the calling thread reconciles."""
        found: str | None = getattr(self._thread, "resource", None)
        return found

    def begin(self, resource: str) -> None:
        """Attributes the keys that the calling thread adds until `end` to a resource, in place of its former keys."""
        self._thread.resource, self._thread.before = resource, self._keys.get(resource, set())
        self._keys[resource] = set()

    def end(self) -> None:
        resource, before = self._thread.resource, self._thread.before
        self._thread.resource = None
        self._drop(resource, before - self._keys.get(resource, set()))

    def add(self, key: WatchKey) -> bool:
        """Adds a key of the current resource. Returns False if there is none, so that the key is not watched."""
        resource = self.current
        if resource is None:
            return False
        self._keys[resource].add(key)
        self._resources[key].add(resource)
        return True

    def forget(self, resource: str) -> None:
        self._drop(resource, self._keys.pop(resource, set()))

    def resources(self, key: WatchKey) -> frozenset[str]:
        return frozenset(self._resources.get(key, ()))

    def _drop(self, resource: str, keys: set[WatchKey]) -> None:
        for key in keys:
            self._resources[key].discard(resource)
            if not self._resources[key]:
                del self._resources[key]
