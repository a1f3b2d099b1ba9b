"""Hears at once what others do to an agent's namespaces, devices, rules and files.

An event says only that it is worth looking at some thing again: nothing is concluded from it, and one that is lost is
made up for by the next full round. A namespace is heard of by a socket of its own, opened in it and read here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from openimds.linux import heard_changes, netns
from openimds.linux.attributions import FORWARDING, Attributions, Note
from openimds.linux.contested import Contest
from openimds.linux.inotify import Folders
from openimds.linux.kept_files import IsRight, KeptFiles, ipv6_off, runs, unchanged, wanted_settings
from openimds.linux.news import News
from openimds.linux.rtnetlink import BUFFER_BYTES, NETLINK_NETFILTER, opened

READING_SECONDS = 3.0
"""Between two readings of what tells nobody when it changes: settings and stopped programs."""


@dataclass(frozen=True, slots=True)
class _Heard:
    """A socket, and what is concluded from whatever comes in on it."""

    conversation: socket.socket
    notes: Callable[[bytes], Iterable[Note]]


class HostEvents:
    """Listens from `start` to `close`; the other methods may be called before, by any thread."""

    def __init__(self) -> None:
        self._attributions = Attributions()
        self._news = News()
        self._sockets: dict[int, _Heard] = {}
        self._namespaces: dict[str, tuple[object, tuple[int, ...]]] = {}
        """By name: which one it was, and the descriptors of its sockets."""
        self._kept_files = KeptFiles()
        self._contests: dict[tuple[str, str], tuple[int, Contest]] = {}
        """By namespace and device: the descriptor, and what is asked by it."""
        self._silent: set[tuple[str, str]] = set()
        self._next_reading = 0.0
        self._folders = Folders()
        self._roots: tuple[Path, ...] = ()
        self._lock = threading.RLock()
        self._epoll = select.epoll()
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
        self._roots = tuple(folders)
        self._epoll.register(self._end, select.EPOLLIN)
        self._epoll.register(self._folders.descriptor, select.EPOLLIN)
        with self._lock:
            self._add(_Heard(opened(groups=heard_changes.RTMGRP_LINK), heard_changes.links))
            self._add(_Heard(opened(NETLINK_NETFILTER, heard_changes.NFT_GROUP), heard_changes.host_rules))
            self._folders.watch(netns.NETNS_DIR)
            for root in self._roots:
                self._watch_root(root)
        self._thread.start()

    def close(self) -> None:
        os.eventfd_write(self._end, 1)
        if self._thread.is_alive():
            self._thread.join()
        with self._lock:
            for name in list(self._namespaces):
                self._close_namespace(name)
            for heard in self._sockets.values():
                heard.conversation.close()
            self._sockets.clear()
            self._kept_files.close()
            self._folders.close()
            self._epoll.close()
            os.close(self._end)

    # What an agent's loop asks (agents.reconcile.Notices) -----------------------------------------------------------

    @contextmanager
    def looking_at(self, key: str) -> Iterator[None]:
        """What is looked at in the block is `key`'s: from now on it is heard of."""
        with self._attributions.of(key):
            yield

    def forget(self, key: str) -> None:
        with self._lock:
            self._attributions.forget(key)
            self._news.forget(key)
            for name in [name for name in self._namespaces if not self._attributions.keys(("netns", name))]:
                self._close_namespace(name)

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

    def namespace(
        self, name: str, *, is_guests: bool, with_rules: bool, settings: Mapping[str, str] | None = None
    ) -> None:
        """This one is about to be looked at. In a guest's own the guest changes what it likes: only its removal is
        heard of. `settings` as it should have them: `{"net.ipv4.ip_forward": "1"}`.
        """
        stamp = (netns.identity(name), with_rules, settings or {})
        with self._lock:
            if not self._attributions.note(("netns", name)) or stamp[0] is None or is_guests:
                return
            if self._namespaces.get(name, (None, ()))[0] == stamp:
                return
            self._close_namespace(name)
            with contextlib.suppress(netns.NamespaceMissingError, OSError):
                self._open_namespace(name, stamp)

    def left(self, name: str) -> None:
        """This namespace is about to be removed: a socket would keep it in being."""
        with self._lock:
            self._close_namespace(name)

    def link(self, name: str, *, without_ipv6: bool = False) -> None:
        """A device of the root namespace. `without_ipv6`: the host is to have no address on it."""
        self._note(("link", name), lambda: ipv6_off(name) if without_ipv6 else [])

    def process(self, pid: int) -> None:
        self._note(("process", str(pid)), lambda: runs(pid))

    def chain(self, tap: str) -> None:
        """A port's chain in the host's table of family bridge."""
        self._note(("chain", tap))

    def table(self, name: str) -> None:
        """The host's table of family inet."""
        self._note(("table", name))

    def contested(self, namespace: str, device: str, address: str) -> bool:
        """Another host has this IPv6 address of the device. Whether nobody has answered for it of late, told once."""
        with self._lock:
            at = (namespace, device)
            is_silent = at in self._silent
            self._silent.discard(at)
            if at not in self._contests and self._attributions.note(("netns", namespace)):
                with contextlib.suppress(netns.NamespaceMissingError, OSError):
                    contest = netns.in_namespace(namespace, lambda: Contest(device, address))
                    self._contests[at] = (self._add(_Heard(contest.conversation, contest.hear)), contest)
            return is_silent

    def uncontested(self, namespace: str, device: str) -> None:
        """The address is ours, or is not there."""
        with self._lock:
            self._silent.discard((namespace, device))
            descriptor, _contest = self._contests.pop((namespace, device), (None, None))
            if descriptor is not None:
                self._close_socket(descriptor)

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
            lost = self._hear([descriptor for descriptor, _events in self._epoll.poll(0)])
            self._news.discard(self._attributions.key or "")
        if lost:
            self._on_lost()

    def died(self, pids: Iterable[int]) -> None:
        """These processes have ended."""
        with self._lock:
            found = [self._attributions.keys(("process", str(pid))) for pid in pids]
            for keys in found:
                self._news.add(keys)
        (self._on_news if all(found) else self._on_lost)()

    # The thread -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            pause = max(0.0, self._next_reading - time.monotonic())
            ready = [descriptor for descriptor, _events in self._epoll.poll(pause)]
            if self._end in ready:
                return
            with self._lock:
                lost = self._hear(ready)
                self._read_files()
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
                lost = self._drain(self._sockets[descriptor]) or lost
        lost, self._folders.overflowed = lost or self._folders.overflowed, False
        return lost

    def _read_files(self) -> None:
        if time.monotonic() < self._next_reading:
            return
        for note in self._kept_files.notes:
            if not self._attributions.keys(note):
                self._kept_files.drop(note)
            elif note[0] != "netns":  # else not in this thread's namespace
                self._kept_files.come(note)
        for note in self._kept_files.wrong():
            self._news.add(self._attributions.keys(note))
        self._ask_for_contested()
        self._next_reading = time.monotonic() + READING_SECONDS

    def _ask_for_contested(self) -> None:
        for at, (_descriptor, contest) in self._contests.items():
            if contest.step(time.monotonic(), len(self._contests)):
                self._silent.add(at)
                self._news.add(self._attributions.keys(("netns", at[0])))

    def _drain(self, heard: _Heard) -> bool:
        """Whether something was missed: the kernel says ENOBUFS once."""
        lost = False
        while True:
            try:
                datagram = heard.conversation.recv(BUFFER_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return lost
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    return True
                lost = True
                continue
            for note in heard.notes(datagram):
                self._news.add(self._attributions.keys(note))

    def _hear_folders(self) -> None:
        for path, is_new_folder in self._folders.changed():
            if path.parent == netns.NETNS_DIR:
                self._hear_namespace(path.name)
                continue
            root = next((root for root in self._roots if root in path.parents), None)
            if root is None:
                continue
            self._news.add([path.relative_to(root).parts[0].split(".")[0]])
            if is_new_folder and path.parent == root:
                self._folders.watch(path)

    def _hear_namespace(self, name: str) -> None:
        known = self._namespaces.get(name)
        if known is not None and netns.identity(name) is None:
            self._close_namespace(name)
        self._news.add(self._attributions.keys(("netns", name)))

    # Sockets --------------------------------------------------------------------------------------------------------

    def _note(self, note: Note, files: Callable[[], list[tuple[Path, IsRight]]] = list) -> None:
        with self._lock:
            if self._attributions.note(note) and note not in self._kept_files and (found := files()):
                self._kept_files.keep(note, found)

    def _open_namespace(self, name: str, stamp: tuple[object, bool, Mapping[str, str]]) -> None:
        _identity, with_rules, settings = stamp
        note: Note = ("netns", name)

        def inside() -> list[socket.socket]:
            self._kept_files.keep(note, wanted_settings(settings))
            route = [opened(groups=heard_changes.RTMGRP_ALL)]
            return [*route, opened(NETLINK_NETFILTER, heard_changes.NFT_GROUP)] if with_rules else route

        conversations = netns.in_namespace(name, inside)
        self._namespaces[name] = (stamp, tuple(self._add(_Heard(one, lambda _: [note])) for one in conversations))

    def _close_namespace(self, name: str) -> None:
        self._kept_files.drop(("netns", name))
        _stamp, descriptors = self._namespaces.pop(name, (None, ()))
        for descriptor in descriptors:
            self._close_socket(descriptor)
        for namespace, device in [at for at in self._contests if at[0] == name]:
            self.uncontested(namespace, device)

    def _close_socket(self, descriptor: int) -> None:
        self._epoll.unregister(descriptor)
        self._sockets.pop(descriptor).conversation.close()

    def _add(self, heard: _Heard) -> int:
        descriptor = heard.conversation.fileno()
        self._sockets[descriptor] = heard
        self._epoll.register(descriptor, select.EPOLLIN)
        return descriptor

    def _watch_root(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True, mode=0o755)
        self._folders.watch(root)
        for folder in root.iterdir():
            if folder.is_dir():
                self._folders.watch(folder)
