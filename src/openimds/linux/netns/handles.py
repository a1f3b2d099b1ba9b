"""Open handles to namespaces, which read them without entering.

A netlink socket belongs to the namespace that it was opened in, and an open file of /proc/sys/net shows the setting of
that namespace, from any thread. A namespace is therefore entered once, and reading it again costs a few system calls
instead of a thread. The kernel's state itself is not cached, only the parsed result of the bytes that it returned.
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
    """Open sysctl files of one namespace. Thread-safe. They do not keep the namespace alive."""

    def __init__(self) -> None:
        self._open: dict[str, int] = {}
        """Setting key (`net.ipv4.ip_forward`) → file descriptor."""
        self._lock = threading.Lock()

    def open(self, keys: Iterable[str], device_names: frozenset[str]) -> None:
        """Opens the settings' files. The calling thread must be in the namespace.

        A file that does not exist or exceeds the descriptor budget is left out.
        """
        for key in keys:
            descriptor = open_within_budget(sysctl_path(key, device_names))
            if descriptor is not None:
                with self._lock:
                    self._close(key)
                    self._open[key] = descriptor

    def read(self, key: str) -> str | None:
        """Reads a setting. Returns None if its file is not open or its device is gone."""
        with self._lock:
            descriptor = self._open.get(key)
            if descriptor is None:
                return None
            try:
                return os.pread(descriptor, MAX_SETTING_BYTES, 0).decode().strip()
            except OSError:
                self._close(key)
                return None

    def differ(self, desired: Mapping[str, str]) -> bool:
        """True if an open setting differs from its desired value."""
        return any(self.read(key) not in (None, value) for key, value in desired.items())

    def close(self) -> None:
        with self._lock:
            for key in list(self._open):
                self._close(key)

    def _close(self, key: str) -> None:
        descriptor = self._open.pop(key, None)
        if descriptor is not None:
            os.close(descriptor)


DIGEST_BYTES = 16

Parsed = TypeVar("Parsed")


class NamespaceHandle:
    """Sockets and sysctl files that are open in one namespace. Not thread-safe.

    They stay in this namespace even if it is replaced by another one of the same name.
    """

    def __init__(self, name: str, identity: tuple[int, int]) -> None:
        """Raises OSError, NamespaceMissingError."""
        self.name = name
        self.identity = identity
        self.sysctl_files = SysctlFiles()
        self._links: _ParseCache[tuple[Link, ...]] = _ParseCache()
        self._addresses: _ParseCache[tuple[Address, ...]] = _ParseCache()
        self._routes: _ParseCache[frozenset[Route]] = _ParseCache()
        self._route, self.sock_diag = netns.run_in(name, _open_sockets, identity)

    def links(self) -> tuple[Link, ...]:
        """The links of the namespace. Returns the same object as long as they do not change."""
        dump = self._dump(LINK_DUMP)
        return self._links.get([dump], None, lambda: parse_links(dump))

    def addresses(self) -> tuple[Address, ...]:
        """The addresses of all links. Returns the same object as long as they do not change."""
        dump = self._dump(ADDRESS_DUMP)
        return self._addresses.get([dump], None, lambda: parse_addresses(dump))

    def routes(self, links: tuple[Link, ...]) -> frozenset[Route]:
        """The main table's routes through `links`. Returns the same object as long as they do not change."""
        dumps: dict[int, bytes] = {family: self._table(dump) for family, dump in MAIN_TABLE_DUMPS.items()}
        return self._routes.get([*dumps.values()], links, lambda: _parse_all_routes(dumps, links))

    def sysctls(self, desired: Mapping[str, str], device_names: frozenset[str]) -> dict[str, str]:
        """The values of the desired settings, as `sysctl.read_desired` returns them."""
        found = {key: text for key in desired if (text := self.sysctl_files.read(key)) is not None}
        missing = {key: value for key, value in desired.items() if key not in found}
        if not missing:
            return found

        def read() -> dict[str, str]:
            self.sysctl_files.open(missing, device_names)
            return read_desired(missing, device_names)

        return found | netns.run_in(self.name, read, self.identity)

    @property
    def is_within_budget(self) -> bool:
        """True if the sockets are within the descriptor budget."""
        return all(within_budget(netlink.fileno()) for netlink in (self._route, self.sock_diag))

    def close(self) -> None:
        for netlink in (self._route, self.sock_diag):
            netlink.close()
        self.sysctl_files.close()

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
    """The handles of all namespaces. Thread-safe.

    A handle is opened at first use, and again if the namespace was replaced by another one of the same name. Handles
    that exceed the descriptor budget are closed after each use.
    """

    def __init__(self) -> None:
        self._open: dict[str, NamespaceHandle] = {}
        self._lock = threading.RLock()
        weakref.finalize(self, _close_all, self._open)

    @contextmanager
    def open(self, name: str) -> Iterator[NamespaceHandle]:
        """The handle of a namespace, for the duration of the block. Raises NamespaceMissingError."""
        with self._lock:
            handle = self._current(name)
            try:
                yield handle
            except BaseException:  # a partial response may be left in a socket
                self.close(name)
                raise
            finally:
                if not handle.is_within_budget:
                    self.close(name)

    def close(self, name: str) -> None:
        """Closes the handle, which would keep a deleted namespace alive. Idempotent."""
        with self._lock:
            handle = self._open.pop(name, None)
            if handle is not None:
                handle.close()

    def settings_differ(self, name: str, desired: Mapping[str, str]) -> bool:
        """True if an open setting differs from its desired value.

        Does not take the lock of `open`, because a reconcile pass can hold it for long and the host monitor polls.
        """
        handle = self._open.get(name)
        return handle is not None and handle.sysctl_files.differ(desired)

    def _current(self, name: str) -> NamespaceHandle:
        identity = netns.identity(name)
        handle = self._open.get(name)
        if handle is not None and handle.identity == identity:
            return handle
        self.close(name)
        if identity is None:
            raise netns.NamespaceMissingError(f"network namespace {name} does not exist")
        self._open[name] = handle = NamespaceHandle(name, identity)
        return handle


class _ParseCache(Generic[Parsed]):
    """The parsed result of the last dump, reused while the dump's bytes are the same.

    Only a digest of the bytes is stored: a dump takes some kilobytes, and there may be a thousand namespaces.
    """

    def __init__(self) -> None:
        self._key: tuple[object, ...] = ()
        self._value: Parsed | None = None

    def get(self, dumps: Sequence[bytes], context: object, parse: Callable[[], Parsed]) -> Parsed:
        """Returns the cached result, or calls `parse`. `context` is the other input of `parse`."""
        key = (context, *(blake2b(dump, digest_size=DIGEST_BYTES).digest() for dump in dumps))
        if self._value is None or key != self._key:
            self._key, self._value = key, parse()
        return self._value


def _close_all(handles: dict[str, NamespaceHandle]) -> None:
    for handle in handles.values():
        handle.close()


def _open_sockets() -> tuple[NetlinkSocket, NetlinkSocket]:
    route = NetlinkSocket()
    try:
        return route, NetlinkSocket(NETLINK_SOCK_DIAG)
    except OSError:
        route.close()
        raise


def _parse_all_routes(dumps: Mapping[int, bytes], links: tuple[Link, ...]) -> frozenset[Route]:
    names = {link.index: link.name for link in links}
    return frozenset[Route]().union(*(parse_routes(dump, family, names) for family, dump in dumps.items()))
