"""The client of the service manager's file descriptor store: listening sockets survive a restart of this process.

The protocol is systemd's (sd_notify(3) FDSTORE=1, sd_listen_fds(3)); `openimds up` implements the manager's side.
The store keeps the accept queue of a listening socket: a client that connects during the restart waits and is not
refused.
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
"""SD_LISTEN_FDS_START of sd_listen_fds(3): the inherited descriptors follow stderr, in the order of LISTEN_FDNAMES."""
WIRE_NAME_CHARACTERS = 14
"""Longer names travel as a digest. LISTEN_FDNAMES holds all names in one environment string, and execve(2) limits a
string to 128 KiB, which is room for more than 8,192 names of this length."""
SEND_SECONDS = 5.0
"""Send timeout. The manager's queue holds some hundred messages (net.unix.max_dgram_qlen)."""
REREGISTER_SECONDS = 1.0
"""Interval at which `reregistering` checks for a new service manager."""


class FdStore:
    """Sockets in the file descriptor store of the service manager, by name (sd_pid_notify_with_fds(3), FDSTORE=1).

    A name is printable ASCII without a colon.

    >>> fd_store = FdStore.inherited()
    >>> listener = fd_store.take("metadata_proxy") or new_listener()
    >>> fd_store.put("metadata_proxy", listener)  # after listen()
    >>> fd_store.close_untaken()  # at the end of the start

    The object is thread-safe. Without a service manager every method succeeds and stores nothing.
    """

    def __init__(self, inherited: MutableMapping[str, list[socket.socket]], notify_address: str) -> None:
        """`inherited`: the sockets by their names in LISTEN_FDNAMES."""
        self._untaken = inherited
        self._address = notify_address
        self._channel: socket.socket | None = None
        self._manager: tuple[int, ...] | None = _file_identity(notify_address)
        self._stored: dict[str, socket.socket] = {}
        self._lock = threading.Lock()
        if not notify_address:
            log.debug("file descriptor store absent: a restart refuses connections", missing="NOTIFY_SOCKET")

    @classmethod
    def inherited(cls) -> FdStore:
        """Reads the sockets from the environment and removes LISTEN_* from it, so that children do not see them."""
        count, names, pid = (os.environ.pop(name, "") for name in ("LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"))
        sockets: dict[str, list[socket.socket]] = {}
        if count.isdigit() and pid == str(os.getpid()):
            words = names.split(":")
            for index in range(int(count)):
                name = words[index] if index < len(words) else ""
                _adopt(FIRST_FD + index, sockets.setdefault(name, []))
        return cls(sockets, os.environ.get("NOTIFY_SOCKET", ""))

    @property
    def untaken(self) -> tuple[str, ...]:
        """The wire names of inherited sockets that `take` has not returned yet."""
        with self._lock:
            return tuple(name for name, sockets in self._untaken.items() if sockets)

    def take(self, name: str) -> socket.socket | None:
        """Returns a socket that an earlier process stored. A second call returns another socket or None.

        The caller owns the socket, and calls `forget` when the socket is no longer used.
        """
        with self._lock:
            sockets = self._untaken.get(_wire_name(name))
            if not sockets:
                return None
            self._stored[name] = sockets[0]
            return sockets.pop(0)

    def put(self, name: str, listener: socket.socket) -> None:
        """Stores a socket that listens already. Raises ValueError for an invalid name."""
        if not _is_valid(name):
            raise ValueError(f"invalid file descriptor name {name!r}: use printable ASCII without a colon")
        with self._lock:
            self._stored[name] = listener
            self._store(name, listener)

    def forget(self, name: str) -> None:
        """Removes the name from the store; the manager closes its copy."""
        with self._lock:
            self._stored.pop(name, None)
            self._send(f"FDSTOREREMOVE=1\nFDNAME={_wire_name(name)}")

    def close_untaken(self) -> tuple[str, ...]:
        """Closes inherited sockets that were not taken, here and in the store. Returns their wire names."""
        with self._lock:
            names = tuple(name for name, sockets in self._untaken.items() if sockets)
            for name in names:
                for untaken in self._untaken[name]:
                    untaken.close()
            self._untaken.clear()
            # FDSTOREREMOVE removes every socket of a name, so the taken ones of that name are stored again.
            for name in names:
                self._send(f"FDSTOREREMOVE=1\nFDNAME={name}")
                for stored, listener in self._stored.items():
                    if _wire_name(stored) == name:
                        self._store(stored, listener)
        return names

    def reregister(self) -> None:
        """Stores every socket again if NOTIFY_SOCKET is a new file: the service manager was restarted.

        The check costs one stat(2), and callers repeat it about every second.
        """
        with self._lock:
            manager = _file_identity(self._address)
            if manager is None or manager == self._manager:
                return
            self._manager = manager
            self._drop_channel()
            for name, listener in self._stored.items():
                self._store(name, listener)

    @contextmanager
    def reregistering(self) -> Iterator[None]:
        """Runs `reregister` every second on a thread while the block runs."""
        ended = threading.Event()

        def poll() -> None:
            while not ended.wait(REREGISTER_SECONDS):
                self.reregister()

        thread = threading.Thread(target=poll, name="fd store", daemon=True)
        if self._address:
            thread.start()
        try:
            yield
        finally:
            ended.set()

    def barrier(self) -> None:
        """Waits until the manager has processed all messages (sd_notify(3) BARRIER=1), at most SEND_SECONDS."""
        read_end, write_end = os.pipe()
        try:
            with self._lock:
                self._send("BARRIER=1", write_end)
        finally:
            os.close(write_end)
        # The manager closes its copy of the write end when it reads this message.
        select.select([read_end], [], [], SEND_SECONDS)
        os.close(read_end)

    def close(self) -> None:
        """Closes the channel to the manager. The stored sockets stay in the store."""
        with self._lock:
            self._drop_channel()

    # Messages; the caller holds the lock ------------------------------------------------------------------------

    def _store(self, name: str, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            # FDPOLL=0, because systemd otherwise drops a socket that reports a hang-up or an error.
            self._send(f"FDSTORE=1\nFDPOLL=0\nFDNAME={_wire_name(name)}", listener.fileno())

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
                "file descriptor store message not sent: the next process may not inherit the socket",
                address=self._address, error=str(error), message=message.replace("\n", " "),
            )  # fmt: skip

    def _connected(self) -> socket.socket:
        """The socket to the service manager. It is connected once, because each of thousands of sockets is a message."""
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
        log.warning("inherited descriptor ignored: it is not a socket", descriptor=descriptor, error=str(error))


def _wire_name(name: str) -> str:
    """The name in messages and in LISTEN_FDNAMES: the name itself if it is short, or else 72 bits of its digest."""
    if len(name) <= WIRE_NAME_CHARACTERS:
        return name
    return "~" + base64.urlsafe_b64encode(hashlib.blake2b(name.encode(), digest_size=9).digest()).decode()


def _is_valid(name: str) -> bool:
    """The rule of systemd's fdname_is_valid."""
    return bool(name) and all(" " <= character <= "~" and character != ":" for character in name)


def _file_identity(address: str) -> tuple[int, ...] | None:
    """Device, inode and ctime of a notify socket's path, because inode numbers are reused.

    Returns None if the file is missing or the address is not a path.
    """
    if not address.startswith("/"):
        return None
    try:
        found = Path(address).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns


def inherited_or_new_listener(listen: Listen, fd_store: FdStore, *, hint: str = "") -> socket.socket:
    """Returns the TCP listener that the previous process stored, or binds and stores a new one.

    The listener is the program's only stored socket: all others, such as one of an earlier configuration, are closed.
    Raises StartupError; `hint` follows its sentence.
    """
    name = _listener_name(listen)
    found = fd_store.take(name)
    # The untaken sockets are closed before bind(2): one of them may hold the same port on another address.
    if fd_store.close_untaken():
        fd_store.barrier()
    if found is not None:
        log.info("TCP listener inherited from the previous process", listens=f"{listen.host}:{listen.port}")
        return found
    try:
        made = tcp_listener(listen.host, listen.port)
    except ListenError as error:
        raise StartupError(f"{error}{hint}") from None
    made.listen(BACKLOG)
    fd_store.put(name, made)
    return made


def _listener_name(listen: Listen) -> str:
    """A name made of address and port, so that only the same place finds the socket. Names have no colons."""
    return f"tcp.{listen.host.replace(':', '_')}.{listen.port}"
