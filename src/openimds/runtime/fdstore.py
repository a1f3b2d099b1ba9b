"""Sockets that outlive this process: the service manager keeps a copy of each, and the next process gets them back.

systemd's file descriptor store (sd_notify(3) FDSTORE=1, sd_listen_fds(3)); `openimds up` speaks the same protocol.
A listening socket that is kept has its queue kept: who connects while nobody accepts waits, and is not refused.

A TCP listener that outlives its process: who connects while the program is started again waits, and is not refused.
"""

from __future__ import annotations

import array
import base64
import hashlib
import os
import select
import socket
import threading
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path

import structlog

from openimds.config import Listen
from openimds.http.server.server import BACKLOG
from openimds.http.sockets import ListenError, tcp_listener
from openimds.runtime.lifecycle import StartupError

log = structlog.get_logger(__name__)

FIRST_FD = 3
"""sd_listen_fds(3): the descriptors begin behind standard error, in the order of LISTEN_FDNAMES."""
WIRE_NAME_CHARACTERS = 14
"""Longer names are told as a digest: LISTEN_FDNAMES holds all of them, and execve(2) takes no string of more than 128
KiB. More than 8,192 names of this length fit."""
SEND_SECONDS = 5.0
"""A service manager that is busy takes its time: its queue holds some hundred messages (net.unix.max_dgram_qlen)."""
RENEWAL_SECONDS = 1.0
"""How often `renewing` looks whether another service manager is there."""


class FdStore:
    """By name: printable ASCII characters without a colon, such as `network.<uuid>.4`.

    >>> kept = KeptSockets.inherited()
    >>> listener = kept.take("metadata_proxy") or bind_anew()
    >>> kept.put("metadata_proxy", listener)  # after listen()
    >>> kept.close_untaken()  # at the end of the start

    For several threads. Without a service manager nothing is kept, and nothing fails.
    """

    def __init__(self, inherited: MutableMapping[str, list[socket.socket]], notify_address: str) -> None:
        self._untaken = inherited
        self._address = notify_address
        self._channel: socket.socket | None = None
        self._manager: tuple[int, ...] | None = _file_of(notify_address)
        self._put: dict[str, socket.socket] = {}
        self._lock = threading.Lock()
        if not notify_address:
            log.debug("no service manager keeps sockets: NOTIFY_SOCKET is not set; a restart refuses who connects then")

    @classmethod
    def inherited(cls) -> FdStore:
        """What this process was started with. Takes LISTEN_… out of the environment: children have no part in it."""
        count, names, pid = (os.environ.pop(name, "") for name in ("LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"))
        given: dict[str, list[socket.socket]] = {}
        if count.isdigit() and pid == str(os.getpid()):
            words = names.split(":")
            for index in range(int(count)):
                name = words[index] if index < len(words) else ""
                _adopt(FIRST_FD + index, given.setdefault(name, []))
        return cls(given, os.environ.get("NOTIFY_SOCKET", ""))

    @property
    def untaken(self) -> tuple[str, ...]:
        """The names, as they were told, of sockets that were given and not taken yet."""
        with self._lock:
            return tuple(name for name, sockets in self._untaken.items() if sockets)

    def take(self, name: str) -> socket.socket | None:
        """The socket that an earlier process put; each only once. Its caller owns it, and `forget`s it in the end."""
        with self._lock:
            sockets = self._untaken.get(_told(name))
            if not sockets:
                return None
            self._put[name] = sockets[0]
            return sockets.pop(0)

    def put(self, name: str, kept: socket.socket) -> None:
        """Have the service manager keep `kept`, a socket that listens already. Raises ValueError for a bad name."""
        if not _is_valid(name):
            raise ValueError(f"a kept socket cannot be named {name!r}: printable ASCII without a colon")
        with self._lock:
            self._put[name] = kept
            self._store(name, kept)

    def forget(self, name: str) -> None:
        """The socket is closed for good: the service manager closes its copy as well."""
        with self._lock:
            self._put.pop(name, None)
            self._send(f"FDSTOREREMOVE=1\nFDNAME={_told(name)}")

    def close_untaken(self) -> tuple[str, ...]:
        """Close, here and at the service manager, what nobody took; the names as they were told."""
        with self._lock:
            names = tuple(name for name, sockets in self._untaken.items() if sockets)
            for name in names:
                for left in self._untaken[name]:
                    left.close()
            self._untaken.clear()
            # A name is forgotten as a whole; what was taken of it is given again.
            for name in names:
                self._send(f"FDSTOREREMOVE=1\nFDNAME={name}")
                for put, kept in self._put.items():
                    if _told(put) == name:
                        self._store(put, kept)
        return names

    def renew(self) -> None:
        """Put everything again when somebody else listens on NOTIFY_SOCKET than before: `up` was started again.

        To be called every second or so; it costs a stat.
        """
        with self._lock:
            now = _file_of(self._address)
            if now is None or now == self._manager:
                return
            self._manager = now
            self._drop_channel()
            for name, kept in self._put.items():
                self._store(name, kept)

    @contextmanager
    def renewing(self) -> Iterator[None]:
        """`renew` every second, on a thread of its own, while the block runs."""
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(RENEWAL_SECONDS):
                self.renew()

        thread = threading.Thread(target=look, name="kept sockets", daemon=True)
        if self._address:
            thread.start()
        try:
            yield
        finally:
            ended.set()

    def wait_heard(self) -> None:
        """Until the service manager has done all that it was told (sd_notify(3) BARRIER=1), or for some seconds."""
        heard, told = os.pipe()
        try:
            with self._lock:
                self._send("BARRIER=1", told)
        finally:
            os.close(told)
        # The manager closes its copy of the other end when it comes to this message.
        select.select([heard], [], [], SEND_SECONDS)
        os.close(heard)

    def close(self) -> None:
        """At this process's end: what is kept stays so."""
        with self._lock:
            self._drop_channel()

    # Messages, under the lock ----------------------------------------------------------------------------------

    def _store(self, name: str, kept: socket.socket) -> None:
        if kept.fileno() >= 0:
            # FDPOLL=0: systemd would drop a socket on which it sees a hang-up or an error.
            self._send(f"FDSTORE=1\nFDPOLL=0\nFDNAME={_told(name)}", kept.fileno())

    def _send(self, message: str, descriptor: int | None = None) -> None:
        if not self._address:
            return
        rights = (
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))] if descriptor is not None else []
        )
        try:
            self._connected().sendmsg([message.encode()], rights)
        except OSError as error:
            self._drop_channel()
            log.warning(
                "the service manager was not told of a socket; after this process's end it may not be had again",
                address=self._address, error=str(error), message=message.replace("\n", " "),
            )  # fmt: skip

    def _connected(self) -> socket.socket:
        """Made once: two thousand sockets are two thousand messages."""
        if self._channel is None:
            self._channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._channel.settimeout(SEND_SECONDS)
            self._channel.connect(f"\0{self._address[1:]}" if self._address.startswith("@") else self._address)
        return self._channel

    def _drop_channel(self) -> None:
        if self._channel is not None:
            self._channel.close()
        self._channel = None


def _adopt(descriptor: int, into: list[socket.socket]) -> None:
    try:
        os.set_inheritable(descriptor, False)
        into.append(socket.socket(fileno=descriptor))
    except OSError as error:
        log.warning("the service manager gave something that is no socket", descriptor=descriptor, error=str(error))


def _told(name: str) -> str:
    """The name in messages and in LISTEN_FDNAMES: itself, or 72 bits of its digest."""
    if len(name) <= WIRE_NAME_CHARACTERS:
        return name
    return "~" + base64.urlsafe_b64encode(hashlib.blake2b(name.encode(), digest_size=9).digest()).decode()


def _is_valid(name: str) -> bool:
    """As systemd's fdname_is_valid has it."""
    return bool(name) and all(" " <= character <= "~" and character != ":" for character in name)


def _file_of(address: str) -> tuple[int, ...] | None:
    """Which file a notify socket's path is; None: gone, or it has no path. An inode's number alone is used again."""
    if not address.startswith("/"):
        return None
    try:
        found = Path(address).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns


def inherited_or_new_listener(listen: Listen, kept: FdStore, *, hint: str = "") -> socket.socket:
    """The listener that the process before has left, or a new one; kept from now on.

    It is the program's only kept socket: others, such as one on a place that was configured before, are closed.
    Raises CannotStartError; `hint` follows its sentence.
    """
    name = _name(listen)
    found = kept.take(name)
    # Before another one is bound: what is closed here may have the same port, on another address.
    if kept.close_untaken():
        kept.wait_heard()
    if found is not None:
        log.info("a socket goes on where the process before left it", listens=f"{listen.host}:{listen.port}")
        return found
    try:
        made = tcp_listener(listen.host, listen.port)
    except ListenError as error:
        raise StartupError(f"{error}{hint}") from None
    made.listen(BACKLOG)
    kept.put(name, made)
    return made


def _name(listen: Listen) -> str:
    """By its place, so that the same place is found again and another is not. Names have no colons."""
    return f"tcp.{listen.host.replace(':', '_')}.{listen.port}"
