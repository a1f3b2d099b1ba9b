"""Windows into namespaces: what they have is seen through them without entering.

A netlink socket speaks to the namespace that it was opened in, and an open file of /proc/sys/net is that namespace's
setting, whichever thread asks. So a namespace is entered once, and a look at it that finds nothing new costs a few
system calls instead of a thread. Whatever is asked is asked of the kernel: nothing is remembered but what bytes mean.
"""

from __future__ import annotations

import os
import resource
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from openimds.linux import netlink, netns
from openimds.linux.listening_sockets import NETLINK_SOCK_DIAG
from openimds.linux.netlink import Address, Dump, Link
from openimds.linux.rtnetlink import Conversation
from openimds.linux.sysctl import MAX_SETTING_BYTES, read_wanted, sysctl_path
from openimds.wiring.state import Route

DESCRIPTORS_PER_WINDOW = 16
"""At most, more or less: two sockets, and a file for each setting."""

Value = TypeVar("Value")


class Window:
    """Into one namespace; by no later one of the same name. Not for two threads at once."""

    def __init__(self, name: str, identity: tuple[int, int]) -> None:
        """Raises OSError, NamespaceMissingError."""
        self.name = name
        self.identity = identity
        self._settings: dict[str, int] = {}
        """Key → an open file."""
        self._links: _Meaning[tuple[Link, ...]] = _Meaning()
        self._addresses: _Meaning[tuple[Address, ...]] = _Meaning()
        self._routes: _Meaning[frozenset[Route]] = _Meaning()
        self._route, self.sock_diag = netns.in_namespace(name, _conversations)

    def links(self) -> tuple[Link, ...]:
        """The same object as the last time, if nothing is new; so with the others."""
        return self._links.of(self._dump(netlink.LINKS), netlink.links_in)

    def addresses(self) -> tuple[Address, ...]:
        return self._addresses.of(self._dump(netlink.ADDRESSES), netlink.addresses_in)

    def routes(self, links: tuple[Link, ...]) -> frozenset[Route]:
        """`links`: the devices that they may go by."""
        said: dict[int, bytes] = {family: self._table(dump) for family, dump in netlink.MAIN_TABLES.items()}
        names = {link.index: link.name for link in links}
        return self._routes.of((said, names), lambda _: _routes(said, names))

    def settings(self, wanted: Mapping[str, str], device_names: frozenset[str]) -> dict[str, str]:
        """As `read_wanted`."""
        found = {key: text for key in wanted if (text := self._setting(key)) is not None}
        missing = {key: value for key, value in wanted.items() if key not in found}
        if not missing:
            return found
        return found | netns.in_namespace(self.name, lambda: self._open_settings(missing, device_names))

    def close(self) -> None:
        for conversation in (self._route, self.sock_diag):
            conversation.close()
        for descriptor in self._settings.values():
            os.close(descriptor)
        self._settings.clear()

    def _dump(self, dump: Dump) -> bytes:
        return self._route.dump(dump.kind, dump.body)

    def _table(self, dump: Dump) -> bytes:
        try:
            return self._dump(dump)
        except OSError as error:
            if error.errno in netlink.NO_TABLE:
                return b""
            raise

    def _setting(self, key: str) -> str | None:
        """None: it is not open, or was of a device that is gone."""
        descriptor = self._settings.get(key)
        if descriptor is None:
            return None
        try:
            return os.pread(descriptor, MAX_SETTING_BYTES, 0).decode().strip()
        except OSError:
            os.close(self._settings.pop(key))
            return None

    def _open_settings(self, wanted: Mapping[str, str], device_names: frozenset[str]) -> dict[str, str]:
        """By a thread that has entered the namespace."""
        for key in wanted:
            try:
                descriptor = os.open(sysctl_path(key, device_names), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            self._settings[key] = descriptor
        return read_wanted(wanted, device_names)


class Windows:
    """Opened when they are first looked through, and again for a namespace made anew; no more than this process has
    descriptors for: further ones are closed after each look. For any thread.
    """

    def __init__(self) -> None:
        self._open: dict[str, Window] = {}
        self._lock = threading.RLock()
        weakref.finalize(self, _close_all, self._open)

    @contextmanager
    def at(self, name: str) -> Iterator[Window]:
        """Raises NamespaceMissingError."""
        with self._lock:
            window = self._open_at(name)
            try:
                yield window
            except BaseException:  # half an answer may be left in a socket
                self.close(name)
                raise
            finally:
                if len(self._open) * DESCRIPTORS_PER_WINDOW > resource.getrlimit(resource.RLIMIT_NOFILE)[0]:
                    self.close(name)

    def close(self, name: str) -> None:
        """It would keep a namespace in being that is about to be removed. Idempotent."""
        with self._lock:
            window = self._open.pop(name, None)
            if window is not None:
                window.close()

    def _open_at(self, name: str) -> Window:
        identity = netns.identity(name)
        window = self._open.get(name)
        if window is not None and window.identity == identity:
            return window
        self.close(name)
        if identity is None:
            raise netns.NamespaceMissingError(f"there is no network namespace {name}")
        self._open[name] = window = Window(name, identity)
        return window


class _Meaning(Generic[Value]):
    """Of what was read last: the same bytes mean the same."""

    def __init__(self) -> None:
        self._said: Any = None
        self._value: Value | None = None

    def of(self, said: Any, meaning: Callable[[Any], Value]) -> Value:
        if self._value is None or said != self._said:
            self._said, self._value = said, meaning(said)
        return self._value


def _close_all(windows: dict[str, Window]) -> None:
    for window in windows.values():
        window.close()


def _conversations() -> tuple[Conversation, Conversation]:
    route = Conversation()
    try:
        return route, Conversation(NETLINK_SOCK_DIAG)
    except OSError:
        route.close()
        raise


def _routes(said: Mapping[int, bytes], names: Mapping[int, str]) -> frozenset[Route]:
    return frozenset[Route]().union(*(netlink.routes_in(dump, family, names) for family, dump in said.items()))
