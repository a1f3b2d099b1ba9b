"""Which keys are to be looked at, and when: not at once again, since what a guest does to its own NIC is heard too.

Hears at once what others do to an agent's namespaces, devices, rules and files.

An event says only that it is worth looking at some thing again: nothing is concluded from it, and one that is lost is
made up for by the next full round. A namespace is heard of by a socket of its own, opened in it and read here.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from openimds.linux.configure.dad import NeighbourProbes
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
"""Between two looks at one thing because of news."""
RECHECK_SECONDS = 2.0


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
        self._later[key] = time.monotonic() + RECHECK_SECONDS

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
        self._next_look.update(dict.fromkeys(due, now + MIN_INTERVAL_SECONDS))
        return due

    @property
    def seconds_to_next(self) -> float | None:
        """None: when something is new."""
        times = [*self._later.values(), *(self._next_look.get(key, 0.0) for key in self._touched)]
        return max(0.0, min(times) - time.monotonic()) if times else None


POLL_SECONDS = 3.0
"""Between two readings of what tells nobody when it changes: settings and stopped programs."""
KEYS_PER_BATCH = 64
BATCH_PAUSE_SECONDS = 0.001
"""Between two such lots, in which others get on."""


class HostMonitor:
    """Listens from `start` to `close`; the other methods may be called before, by any thread."""

    def __init__(self) -> None:
        self._attributions = ResourceIndex()
        self._news = Debouncer()
        self._sockets = EventSockets()
        self._namespaces = NamespaceSockets(self._sockets)
        self._contests = NeighbourProbes(self._sockets)
        self._kept_files = PolledFiles()
        self._folders = DirectoryWatcher()
        self._next_reading = 0.0
        self._unread: list[WatchKey] = []
        """What is left of the reading under way."""
        self._lock = threading.RLock()
        self._end = os.eventfd(0, os.EFD_CLOEXEC)
        self._on_news: Callable[[], None] = lambda: None
        self._on_lost: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)

    # What listens ---------------------------------------------------------------------------------------------------

    def start(self, folders: Iterable[Path], on_news: Callable[[], None], on_lost: Callable[[], None]) -> None:
        """`folders`: below each, every name belongs to the key that it begins with (`<key>.conf`, `<key>/host`).

        `on_news`: `take` has something; `on_lost`: something was missed, everything should be looked at.
        """
        self._on_news, self._on_lost = on_news, on_lost
        self._sockets.wait_also_for(self._end)
        self._sockets.wait_also_for(self._folders.descriptor)
        with self._lock:
            self._sockets.add(
                EventSocket(open_socket(groups=netlink_events.RTMGRP_LINK), netlink_events.parse_link_events)
            )
            self._sockets.add(
                EventSocket(
                    open_socket(NETLINK_NETFILTER, netlink_events.NFT_GROUP), netlink_events.parse_ruleset_events
                )
            )
            self._folders.watch(folders, [netns.NETNS_DIR])
        self._thread.start()

    def close(self) -> None:
        os.eventfd_write(self._end, 1)
        if self._thread.is_alive():
            self._thread.join()
        with self._lock:
            self._sockets.close()
            self._kept_files.close()
            self._folders.close()
            os.close(self._end)

    # What an agent's loop asks (agents.reconcile.Notices) -----------------------------------------------------------

    @contextmanager
    def recording(self, key: str) -> Iterator[None]:
        """What is looked at in the block is `key`'s: from now on it is heard of."""
        with self._lock:
            self._attributions.begin(key)
        try:
            yield
        finally:
            with self._lock:
                self._attributions.end()

    def forget(self, key: str) -> None:
        with self._lock:
            self._attributions.forget(key)
            self._news.forget(key)
            for name in [name for name in self._namespaces if not self._attributions.keys(("netns", name))]:
                self._let_go(name)

    def take(self) -> frozenset[str]:
        """The keys of what was touched, but for those that were named a moment ago: they come later."""
        with self._lock:
            return self._news.take()

    @property
    def seconds_to_next(self) -> float | None:
        """When `take` should be called again; None: when there is news."""
        with self._lock:
            return self._news.seconds_to_next

    # What the kernel's and the programs' keepers note ---------------------------------------------------------------

    def namespace(self, name: str, *, is_guests: bool, with_rules: bool, settings_differ: Callable[[], bool]) -> None:
        """This one is about to be looked at. In a guest's own the guest changes what it likes: only its removal is
        heard of. `settings_differ`: asked every 3 s, whether a setting is not as it should be.
        """
        with self._lock:
            if self._attributions.note(("netns", name)) and not is_guests:
                if self._namespaces.is_another(name):
                    self._let_go(name)
                self._namespaces.hear(name, with_rules=with_rules, settings_differ=settings_differ)

    def left(self, name: str) -> None:
        """This namespace is about to be removed: a socket would keep it in being."""
        with self._lock:
            self._let_go(name)

    def link(self, name: str, *, without_ipv6: bool = False) -> None:
        """A device of the root namespace. `without_ipv6`: the host is to have no address on it."""
        self._note(("link", name), lambda: ipv6_disabled(name) if without_ipv6 else [])

    def process(self, pid: int) -> None:
        self._note(("process", str(pid)), lambda: not_stopped(pid))

    def chain(self, tap: str) -> None:
        """A port's chain in the host's table of family bridge."""
        self._note(("chain", tap))

    def table(self, name: str) -> None:
        """The host's table of family inet."""
        self._note(("table", name))

    def contested(self, namespace: str, device: str, address: str) -> bool:
        """Another host has this IPv6 address of the device. Whether nobody has answered for it of late, told once."""
        with self._lock:
            is_silent = self._contests.take_silence(namespace, device)
            if self._attributions.note(("netns", namespace)):
                self._contests.begin(namespace, device, address)
            return is_silent

    def uncontested(self, namespace: str, device: str) -> None:
        """The address is ours, or is not there."""
        with self._lock:
            self._contests.end(namespace, device)

    def look_again(self) -> None:
        """What was looked at just now may not have been seen as it is."""
        with self._lock:
            if (key := self._attributions.key) is not None:
                self._news.add_later(key)

    def forwarding(self, switches: Iterable[Path]) -> None:
        """What the host's firewall does with bridged packets, and the settings that make it look at them."""
        self._note(FORWARDING, lambda: unchanged(switches))

    def settle(self) -> None:
        """All that was done until now will be seen by the look that follows: it calls for no other."""
        with self._lock:
            lost = self._hear(self._sockets.ready(0))
            self._news.discard(self._attributions.key or "")
        if lost:
            self._on_lost()

    def died(self, pids: Iterable[int]) -> None:
        """These processes have ended."""
        with self._lock:
            notes: list[WatchKey] = [("process", str(pid)) for pid in pids]
            self._touch(notes)
            are_known = all(self._attributions.keys(note) for note in notes)
        (self._on_news if are_known else self._on_lost)()

    # The thread -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            pause = BATCH_PAUSE_SECONDS if self._unread else max(0.0, self._next_reading - time.monotonic())
            ready = self._sockets.ready(pause)
            if self._end in ready:
                return
            with self._lock:
                lost = self._hear(ready)
                if not self._unread and time.monotonic() >= self._next_reading:
                    lost = self._begin_reading() or lost
                self._read_on()
                has_news = bool(self._news)
            if lost:
                self._on_lost()
            elif has_news:
                self._on_news()

    def _hear(self, ready: Iterable[int]) -> bool:
        """Whether something was missed of what cannot be attributed to anybody."""
        lost = False
        for descriptor in ready:
            if descriptor == self._folders.descriptor:
                self._hear_folders()
            elif descriptor in self._sockets:
                notes, missed = self._sockets.drain(descriptor)
                self._touch(notes)
                lost = lost or missed
        return self._folders.take_overflow() or lost

    def _hear_folders(self) -> None:
        for folder, name in self._folders.changed():
            if folder != netns.NETNS_DIR:
                self._news.add([name.split(".")[0]])
                continue
            if netns.identity(name) is None:
                self._let_go(name)
            self._touch([("netns", name)])

    def _begin_reading(self) -> bool:
        """Of what nobody tells of. Whether something was missed."""
        self._next_reading = time.monotonic() + POLL_SECONDS
        self._unread = [*self._kept_files.notes, *(("netns", name) for name in self._namespaces)]
        self._touch(("netns", name) for name in self._contests.step())
        return self._folders.watch_new_ones()

    def _read_on(self) -> None:
        """Some at a time: whoever notes something in the meantime does not wait until all are read."""
        self._touch(note for note in self._unread[:KEYS_PER_BATCH] if not self._is_right(note))
        del self._unread[:KEYS_PER_BATCH]

    def _is_right(self, note: WatchKey) -> bool:
        if note[0] == "netns":
            return self._namespaces.is_right(note[1])
        if not self._attributions.keys(note):
            self._kept_files.drop(note)
        self._kept_files.come(note)
        return self._kept_files.is_right(note)

    def _touch(self, notes: Iterable[WatchKey]) -> None:
        for note in notes:
            self._news.add(self._attributions.keys(note))

    def _note(self, note: WatchKey, files: Callable[[], list[tuple[Path, IsExpected]]] = list) -> None:
        with self._lock:
            if self._attributions.note(note) and note not in self._kept_files and (found := files()):
                self._kept_files.keep(note, found)

    def _let_go(self, namespace: str) -> None:
        self._namespaces.let_go(namespace)
        self._contests.end_in(namespace)
