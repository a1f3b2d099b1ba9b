"""Reports changes that other programs make to the namespaces, devices, rules and files of an agent.

An event only says that a resource must be reconciled. Its content is not applied, and the next full pass finds a
change whose event was lost. Each namespace has event sockets of its own, opened inside it and read here.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from openimds.linux.configure.neighbour_discovery import NeighbourProbes
from openimds.linux.monitor import netlink_events
from openimds.linux.monitor.resource_index import FORWARDING, ResourceIndex, WatchKey
from openimds.linux.monitor.sockets import EventSocket, EventSockets, NamespaceSockets
from openimds.linux.monitor.watched_files import (
    DirectoryWatcher,
    IsExpected,
    PolledFiles,
    ipv6_disabled,
    not_stopped,
    unchanged,
)
from openimds.linux.netlink.socket import NETLINK_NETFILTER, open_socket
from openimds.linux.netns import netns

MIN_INTERVAL_SECONDS = 0.5
"""The minimum interval between two event-driven passes over one resource."""
RECHECK_SECONDS = 2.0


class Debouncer:
    """The resources that changed, each returned at most once per interval. Not thread-safe.

    The limit matters because a guest can cause events at any rate by changing its own NIC.
    """

    def __init__(self) -> None:
        self._changed: set[str] = set()
        self._not_before: dict[str, float] = {}
        self._rechecks: dict[str, float] = {}
        """Resource → time at which it is returned without an event."""

    def __bool__(self) -> bool:
        return bool(self._changed)

    def add(self, resources: Iterable[str]) -> None:
        self._changed.update(resources)

    def add_recheck(self, resource: str) -> None:
        self._rechecks[resource] = time.monotonic() + RECHECK_SECONDS

    def discard(self, resource: str) -> None:
        """Drops a change of a resource that is about to be reconciled anyway."""
        self._changed.discard(resource)

    def forget(self, resource: str) -> None:
        self._changed.discard(resource)
        self._not_before.pop(resource, None)
        self._rechecks.pop(resource, None)

    def take(self) -> frozenset[str]:
        """Returns the resources that are due. Each is returned again only after another change."""
        now = time.monotonic()
        rechecks = [resource for resource, at in self._rechecks.items() if at <= now]
        self._changed.update(rechecks)
        for resource in rechecks:
            del self._rechecks[resource]
        # Names that belong to no resource are added too (files of any name), so entries must expire.
        self._not_before = {resource: at for resource, at in self._not_before.items() if at > now}
        due = frozenset(self._changed - self._not_before.keys())
        self._changed -= due
        self._not_before.update(dict.fromkeys(due, now + MIN_INTERVAL_SECONDS))
        return due

    @property
    def seconds_to_next(self) -> float | None:
        """Seconds until `take` returns a resource. None until the next change."""
        times = [*self._rechecks.values(), *(self._not_before.get(resource, 0.0) for resource in self._changed)]
        return max(0.0, min(times) - time.monotonic()) if times else None


POLL_SECONDS = 3.0
"""The interval at which settings and stopped processes are polled, because the kernel reports no event for them."""
KEYS_PER_BATCH = 64
BATCH_PAUSE_SECONDS = 0.001
"""The pause between two batches of a poll, in which other threads get the lock."""


class HostMonitor:
    """Runs a thread between `start` and `close`. The other methods may be called earlier, from any thread."""

    def __init__(self) -> None:
        self._index = ResourceIndex()
        self._changes = Debouncer()
        self._sockets = EventSockets()
        self._namespaces = NamespaceSockets(self._sockets)
        self._probes = NeighbourProbes(self._sockets)
        self._polled_files = PolledFiles()
        self._directories = DirectoryWatcher()
        self._next_poll = 0.0
        self._unpolled: list[WatchKey] = []
        """The remaining keys of the current poll."""
        self._lock = threading.RLock()
        self._end = os.eventfd(0, os.EFD_CLOEXEC)
        self._on_change: Callable[[], None] = lambda: None
        self._on_lost: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run, name="host-monitor", daemon=True)

    # Life cycle -----------------------------------------------------------------------------------------------------

    def start(self, directories: Iterable[Path], on_change: Callable[[], None], on_lost: Callable[[], None]) -> None:
        """Starts the thread.

        The names in each directory begin with the resource that they belong to (`<resource>.conf`, `<resource>/host`).
        `on_change` is called when `take` has a result. `on_lost` is called when events were lost, so that everything
        must be reconciled.
        """
        self._on_change, self._on_lost = on_change, on_lost
        self._sockets.watch_descriptor(self._end)
        self._sockets.watch_descriptor(self._directories.descriptor)
        with self._lock:
            links = open_socket(groups=netlink_events.RTMGRP_LINK)
            self._sockets.add(EventSocket(links, netlink_events.parse_link_events))
            rules = open_socket(NETLINK_NETFILTER, netlink_events.NFT_GROUP)
            self._sockets.add(EventSocket(rules, netlink_events.parse_ruleset_events))
            self._directories.watch(directories, [netns.NETNS_DIR])
        self._thread.start()

    def close(self) -> None:
        os.eventfd_write(self._end, 1)
        if self._thread.is_alive():
            self._thread.join()
        with self._lock:
            self._sockets.close()
            self._polled_files.close()
            self._directories.close()
            os.close(self._end)

    # For the agent's scheduler (agents.reconciler) ------------------------------------------------------------------

    @contextmanager
    def recording(self, resource: str) -> Iterator[None]:
        """Attributes everything that the block reads to a resource, and watches it from then on."""
        with self._lock:
            self._index.begin(resource)
        try:
            yield
        finally:
            with self._lock:
                self._index.end()

    def forget(self, resource: str) -> None:
        with self._lock:
            self._index.forget(resource)
            self._changes.forget(resource)
            for name in [name for name in self._namespaces if not self._index.resources(("netns", name))]:
                self._unwatch(name)

    def take(self) -> frozenset[str]:
        """Returns the changed resources, without those that were returned within the last half second."""
        with self._lock:
            return self._changes.take()

    @property
    def seconds_to_next(self) -> float | None:
        """Seconds until `take` should be called. None until the next change."""
        with self._lock:
            return self._changes.seconds_to_next

    # For the readers of the kernel's state --------------------------------------------------------------------------

    def watch_namespace(
        self, name: str, *, is_guests: bool, with_rules: bool, settings_differ: Callable[[], bool]
    ) -> None:
        """Watches a namespace. Called before its state is read.

        A guest may change anything in its own namespace, so only the removal of such a namespace is watched.
        `settings_differ` is called every 3 s and returns True if a setting does not have its desired value.
        """
        with self._lock:
            if self._index.add(("netns", name)) and not is_guests:
                if self._namespaces.is_replaced(name):
                    self._unwatch(name)
                self._namespaces.watch(name, with_rules=with_rules, settings_differ=settings_differ)

    def unwatch_namespace(self, name: str) -> None:
        """Closes the sockets in a namespace that is about to be deleted. An open socket keeps a deleted namespace alive."""
        with self._lock:
            self._unwatch(name)

    def watch_link(self, name: str, *, without_ipv6: bool = False) -> None:
        """Watches a device of the root namespace. `without_ipv6` if IPv6 must stay disabled on it."""
        self._watch(("link", name), lambda: ipv6_disabled(name) if without_ipv6 else [])

    def watch_process(self, pid: int) -> None:
        self._watch(("process", str(pid)), lambda: not_stopped(pid))

    def watch_chain(self, tap: str) -> None:
        """Watches the chain of a port in the host's nftables table of family bridge."""
        self._watch(("chain", tap))

    def watch_table(self, name: str) -> None:
        """Watches the host's nftables table of family inet."""
        self._watch(("table", name))

    def watch_forwarding(self, switches: Iterable[Path]) -> None:
        """Watches the host's FORWARD chains, and the sysctls that pass bridged packets to them."""
        self._watch(FORWARDING, lambda: unchanged(switches))

    def probe_duplicate(self, namespace: str, device: str, address: str) -> bool:
        """Probes an IPv6 address of a device that another host has.

        Returns True, once, if the other host has stopped answering for the address.
        """
        with self._lock:
            is_unanswered = self._probes.take_unanswered(namespace, device)
            if self._index.add(("netns", namespace)):
                self._probes.start(namespace, device, address)
            return is_unanswered

    def stop_probe(self, namespace: str, device: str) -> None:
        """Stops probing: the address is not a duplicate, or was removed."""
        with self._lock:
            self._probes.stop(namespace, device)

    def recheck(self) -> None:
        """Schedules another pass over the current resource, whose state may have been read from an outdated cache."""
        with self._lock:
            if (resource := self._index.current) is not None:
                self._changes.add_recheck(resource)

    def drain(self) -> None:
        """Discards the pending events of the current resource. The read that follows covers these changes."""
        with self._lock:
            lost = self._read_events(self._sockets.wait(0))
            self._changes.discard(self._index.current or "")
        if lost:
            self._on_lost()

    def processes_exited(self, pids: Iterable[int]) -> None:
        """Reports the exit of processes. An exit that belongs to no resource counts as a lost event."""
        with self._lock:
            keys: list[WatchKey] = [("process", str(pid)) for pid in pids]
            self._add_changes(keys)
            are_known = all(self._index.resources(key) for key in keys)
        (self._on_change if are_known else self._on_lost)()

    # The thread -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            pause = BATCH_PAUSE_SECONDS if self._unpolled else max(0.0, self._next_poll - time.monotonic())
            ready = self._sockets.wait(pause)
            if self._end in ready:
                return
            with self._lock:
                lost = self._read_events(ready)
                if not self._unpolled and time.monotonic() >= self._next_poll:
                    lost = self._begin_poll() or lost
                self._poll_batch()
                has_changes = bool(self._changes)
            if lost:
                self._on_lost()
            elif has_changes:
                self._on_change()

    def _read_events(self, ready: Iterable[int]) -> bool:
        """Reads the ready descriptors. Returns True if events were lost."""
        lost = False
        for descriptor in ready:
            if descriptor == self._directories.descriptor:
                self._read_directories()
            elif descriptor in self._sockets:
                keys, overflowed = self._sockets.drain(descriptor)
                self._add_changes(keys)
                lost = lost or overflowed
        return self._directories.take_overflow() or lost

    def _read_directories(self) -> None:
        for directory, name in self._directories.read_changes():
            if directory != netns.NETNS_DIR:
                self._changes.add([name.split(".")[0]])
                continue
            if netns.identity(name) is None:
                self._unwatch(name)
            self._add_changes([("netns", name)])

    def _begin_poll(self) -> bool:
        """Begins a poll of the state for which the kernel reports no event: files of /proc and settings of namespaces.

        Also advances the neighbour probes. Returns True if a watched directory was replaced.
        """
        self._next_poll = time.monotonic() + POLL_SECONDS
        self._unpolled = [*self._polled_files.keys, *(("netns", name) for name in self._namespaces)]
        self._add_changes(("netns", name) for name in self._probes.step())
        return self._directories.rewatch_replaced()

    def _poll_batch(self) -> None:
        """Polls one batch, so that other threads wait for the lock only briefly."""
        self._add_changes(key for key in self._unpolled[:KEYS_PER_BATCH] if not self._is_expected(key))
        del self._unpolled[:KEYS_PER_BATCH]

    def _is_expected(self, key: WatchKey) -> bool:
        if key[0] == "netns":
            return self._namespaces.settings_match(key[1])
        if not self._index.resources(key):
            self._polled_files.drop(key)
        self._polled_files.open_missing(key)
        return self._polled_files.are_expected(key)

    def _add_changes(self, keys: Iterable[WatchKey]) -> None:
        for key in keys:
            self._changes.add(self._index.resources(key))

    def _watch(self, key: WatchKey, files: Callable[[], list[tuple[Path, IsExpected]]] = list) -> None:
        with self._lock:
            if self._index.add(key) and key not in self._polled_files and (found := files()):
                self._polled_files.add(key, found)

    def _unwatch(self, namespace: str) -> None:
        self._namespaces.unwatch(namespace)
        self._probes.stop_all_in(namespace)
