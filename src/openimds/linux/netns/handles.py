"""A namespace's settings, read through files of /proc/sys/net that stay open: each shows the setting of the namespace
that it was opened in, whichever thread reads it. It keeps no namespace in being.

Windows into namespaces: what they have is seen through them without entering.

A netlink socket speaks to the namespace that it was opened in, and an open file of /proc/sys/net is that namespace's
setting, whichever thread asks. So a namespace is entered once, and a look at it that finds nothing new costs a few
system calls instead of a thread. Whatever is asked is asked of the kernel: nothing is remembered but what bytes mean.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import Generic, TypeVar

from openimds.linux.fd_budget import open_within_budget, within_budget
from openimds.linux.netlink.addresses import ADDRESS_DUMP, Address, parse_addresses
from openimds.linux.netlink.links import LINK_DUMP, Link, parse_links
from openimds.linux.netlink.routes import MAIN_TABLE_DUMPS, NO_TABLE_ERRNOS, parse_routes
from openimds.linux.netlink.sock_diag import NETLINK_SOCK_DIAG
from openimds.linux.netlink.socket import Dump, NetlinkSocket
from openimds.linux.netns import netns
from openimds.linux.sysctl import MAX_SETTING_BYTES, read_desired, sysctl_path
from openimds.netconfig.namespace_state import Route


class SysctlFiles:
    """For any thread."""

    def __init__(self) -> None:
        self._open: dict[str, int] = {}
        """By key (`net.ipv4.ip_forward`)."""
        self._lock = threading.Lock()

    def keep(self, keys: Iterable[str], device_names: frozenset[str]) -> None:
        """By a thread in the namespace. What is not there, or one too many, is left out."""
        for key in keys:
            descriptor = open_within_budget(sysctl_path(key, device_names))
            if descriptor is not None:
                with self._lock:
                    self._forget(key)
                    self._open[key] = descriptor

    def text(self, key: str) -> str | None:
        """None: it is not kept, or was of a device that is gone."""
        with self._lock:
            descriptor = self._open.get(key)
            if descriptor is None:
                return None
            try:
                return os.pread(descriptor, MAX_SETTING_BYTES, 0).decode().strip()
            except OSError:
                self._forget(key)
                return None

    def differ(self, wanted: Mapping[str, str]) -> bool:
        """Whether one that is kept has another value than is wanted."""
        return any(self.text(key) not in (None, value) for key, value in wanted.items())

    def close(self) -> None:
        with self._lock:
            for key in list(self._open):
                self._forget(key)

    def _forget(self, key: str) -> None:
        descriptor = self._open.pop(key, None)
        if descriptor is not None:
            os.close(descriptor)


DIGEST_BYTES = 16

Parsed = TypeVar("Parsed")


class NamespaceHandle:
    """Into one namespace; by no later one of the same name. Not for two threads at once."""

    def __init__(self, name: str, identity: tuple[int, int]) -> None:
        """Raises OSError, NamespaceMissingError."""
        self.name = name
        self.identity = identity
        self.setting_files = SysctlFiles()
        self._links: _ParseCache[tuple[Link, ...]] = _ParseCache()
        self._addresses: _ParseCache[tuple[Address, ...]] = _ParseCache()
        self._routes: _ParseCache[frozenset[Route]] = _ParseCache()
        self._route, self.sock_diag = netns.run_in(name, _open_sockets, identity)

    def links(self) -> tuple[Link, ...]:
        """The same object as the last time, if nothing is new; so with the others."""
        said = self._dump(LINK_DUMP)
        return self._links.of([said], None, lambda: parse_links(said))

    def addresses(self) -> tuple[Address, ...]:
        said = self._dump(ADDRESS_DUMP)
        return self._addresses.of([said], None, lambda: parse_addresses(said))

    def routes(self, links: tuple[Link, ...]) -> frozenset[Route]:
        """`links`: the devices that they may go by."""
        said: dict[int, bytes] = {family: self._table(dump) for family, dump in MAIN_TABLE_DUMPS.items()}
        return self._routes.of([*said.values()], links, lambda: _parse_all_routes(said, links))

    def settings(self, wanted: Mapping[str, str], device_names: frozenset[str]) -> dict[str, str]:
        """As `read_wanted`."""
        found = {key: text for key in wanted if (text := self.setting_files.text(key)) is not None}
        missing = {key: value for key, value in wanted.items() if key not in found}
        if not missing:
            return found

        def read() -> dict[str, str]:
            self.setting_files.keep(missing, device_names)
            return read_desired(missing, device_names)

        return found | netns.run_in(self.name, read, self.identity)

    @property
    def may_stay(self) -> bool:
        return all(within_budget(conversation.fileno()) for conversation in (self._route, self.sock_diag))

    def close(self) -> None:
        for conversation in (self._route, self.sock_diag):
            conversation.close()
        self.setting_files.close()

    def _dump(self, dump: Dump) -> bytes:
        return self._route.dump(dump.kind, dump.body)

    def _table(self, dump: Dump) -> bytes:
        try:
            return self._dump(dump)
        except OSError as error:
            if error.errno in NO_TABLE_ERRNOS:
                return b""
            raise


class NamespaceHandles:
    """Opened when they are first looked through, and again for a namespace made anew; those that this process has no
    descriptors to spare for are closed after each look. For any thread.
    """

    def __init__(self) -> None:
        self._open: dict[str, NamespaceHandle] = {}
        self._lock = threading.RLock()
        weakref.finalize(self, _close_all, self._open)

    @contextmanager
    def at(self, name: str) -> Iterator[NamespaceHandle]:
        """Raises NamespaceMissingError."""
        with self._lock:
            window = self._open_at(name)
            try:
                yield window
            except BaseException:  # half an answer may be left in a socket
                self.close(name)
                raise
            finally:
                if not window.may_stay:
                    self.close(name)

    def close(self, name: str) -> None:
        """It would keep a namespace in being that is about to be removed. Idempotent."""
        with self._lock:
            window = self._open.pop(name, None)
            if window is not None:
                window.close()

    def settings_differ(self, name: str, wanted: Mapping[str, str]) -> bool:
        """Whether a setting, as far as one can see without entering, is another than is wanted. Waits for no look."""
        window = self._open.get(name)
        return window is not None and window.setting_files.differ(wanted)

    def _open_at(self, name: str) -> NamespaceHandle:
        identity = netns.identity(name)
        window = self._open.get(name)
        if window is not None and window.identity == identity:
            return window
        self.close(name)
        if identity is None:
            raise netns.NamespaceMissingError(f"there is no network namespace {name}")
        self._open[name] = window = NamespaceHandle(name, identity)
        return window


class _ParseCache(Generic[Parsed]):
    """Of what was read last: the same bytes mean the same. A digest of them is kept: an answer takes some kilobytes, and
    there are a thousand namespaces.
    """

    def __init__(self) -> None:
        self._said: tuple[object, ...] = ()
        self._value: Parsed | None = None

    def of(self, said: Sequence[bytes], given: object, meaning: Callable[[], Parsed]) -> Parsed:
        """`given`: what the meaning depends on besides."""
        stamp = (given, *(blake2b(one, digest_size=DIGEST_BYTES).digest() for one in said))
        if self._value is None or stamp != self._said:
            self._said, self._value = stamp, meaning()
        return self._value


def _close_all(windows: dict[str, NamespaceHandle]) -> None:
    for window in windows.values():
        window.close()


def _open_sockets() -> tuple[NetlinkSocket, NetlinkSocket]:
    route = NetlinkSocket()
    try:
        return route, NetlinkSocket(NETLINK_SOCK_DIAG)
    except OSError:
        route.close()
        raise


def _parse_all_routes(said: Mapping[int, bytes], links: tuple[Link, ...]) -> frozenset[Route]:
    names = {link.index: link.name for link in links}
    return frozenset[Route]().union(*(parse_routes(dump, family, names) for family, dump in said.items()))
