"""Hears at once when a process ends that is nobody's child here (pidfd_open(2), Linux 5.3)."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Iterable

from openimds.linux.fd_budget import within_budget


class ProcessExitWatcher:
    """Calls `on_death` with the watched processes that have ended, each once, on a thread of its own."""

    def __init__(self, on_death: Callable[[frozenset[int]], None]) -> None:
        self._on_death = on_death
        self._descriptors: dict[int, int] = {}
        """By pid."""
        self._dead: set[int] = set()
        """Told already, and watched still: whoever cannot start another must not be told without end."""
        self._lock = threading.Lock()
        self._epoll = select.epoll()
        self._end = os.eventfd(0, os.EFD_CLOEXEC)
        self._epoll.register(self._end, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name="deaths", daemon=True)
        self._thread.start()

    def watch(self, pids: Iterable[int]) -> None:
        """These from now on, and no others. One that is gone already counts as a death."""
        wanted = set(pids)
        with self._lock:
            for pid in self._descriptors.keys() - wanted:
                self._forget(pid)
            self._dead &= wanted
            gone = [pid for pid in wanted - self._descriptors.keys() - self._dead if not self._add(pid)]
            self._dead.update(gone)
        if gone:
            self._on_death(frozenset(gone))

    def close(self) -> None:
        os.eventfd_write(self._end, 1)
        self._thread.join()
        with self._lock:
            for pid in list(self._descriptors):
                self._forget(pid)
        self._epoll.close()
        os.close(self._end)

    def _run(self) -> None:
        while True:
            ready = {descriptor for descriptor, _events in self._epoll.poll()}
            if self._end in ready:
                return
            with self._lock:
                dead = [pid for pid, descriptor in self._descriptors.items() if descriptor in ready]
                for pid in dead:
                    self._forget(pid)
                self._dead.update(dead)
            if dead:
                self._on_death(frozenset(dead))

    def _add(self, pid: int) -> bool:
        """False: it is gone. One too many is not watched."""
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        if not within_budget(descriptor, for_events=True):
            os.close(descriptor)
            return True
        self._descriptors[pid] = descriptor
        self._epoll.register(descriptor, select.EPOLLIN)
        return True

    def _forget(self, pid: int) -> None:
        descriptor = self._descriptors.pop(pid)
        self._epoll.unregister(descriptor)
        os.close(descriptor)
