"""Reports the exit of processes that are not children of this one (pidfd_open(2), Linux 5.3)."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Iterable

from openimds.linux.fd_budget import within_budget


class ProcessExitWatcher:
    """Calls `on_exit` with the PIDs of watched processes that have exited, each once. The calls run on its own thread."""

    def __init__(self, on_exit: Callable[[frozenset[int]], None]) -> None:
        self._on_exit = on_exit
        self._descriptors: dict[int, int] = {}
        """pid → pidfd."""
        self._exited: set[int] = set()
        """Exits that were reported already. Stored so that a failing restart does not cause the same report in a loop.
        """
        self._lock = threading.Lock()
        self._epoll = select.epoll()
        self._end = os.eventfd(0, os.EFD_CLOEXEC)
        self._epoll.register(self._end, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name="process-exits", daemon=True)
        self._thread.start()

    def watch(self, pids: Iterable[int]) -> None:
        """Watches these processes instead of the former ones. A process that is already gone is reported as an exit."""
        targets = set(pids)
        with self._lock:
            for pid in self._descriptors.keys() - targets:
                self._unwatch(pid)
            self._exited &= targets
            gone = [pid for pid in targets - self._descriptors.keys() - self._exited if not self._add(pid)]
            self._exited.update(gone)
        if gone:
            self._on_exit(frozenset(gone))

    def close(self) -> None:
        os.eventfd_write(self._end, 1)
        self._thread.join()
        with self._lock:
            for pid in list(self._descriptors):
                self._unwatch(pid)
        self._epoll.close()
        os.close(self._end)

    def _run(self) -> None:
        while True:
            ready = {descriptor for descriptor, _events in self._epoll.poll()}
            if self._end in ready:
                return
            with self._lock:
                exited = [pid for pid, descriptor in self._descriptors.items() if descriptor in ready]
                for pid in exited:
                    self._unwatch(pid)
                self._exited.update(exited)
            if exited:
                self._on_exit(frozenset(exited))

    def _add(self, pid: int) -> bool:
        """Watches a process. Returns False if it is gone. A process beyond the descriptor budget is not watched."""
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

    def _unwatch(self, pid: int) -> None:
        descriptor = self._descriptors.pop(pid)
        self._epoll.unregister(descriptor)
        os.close(descriptor)
