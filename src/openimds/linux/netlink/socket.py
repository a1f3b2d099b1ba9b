"""The wire format of netlink and its sockets: netlink(7), rtnetlink(7), include/uapi/linux/netlink.h.

A message consists of a header, a fixed body that depends on the message type, and attributes (length, type, value,
padded to 4 bytes). The value of an attribute may be a list of attributes. Numbers have the machine's byte order. An
agent with a thousand namespaces sends several thousand requests per pass; docs/decisions/netlink.md compares this
module with a general library.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass

NETLINK_NETFILTER, NFNL_SUBSYS_NFTABLES = 12, 10
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR = 0x1, 0x4, 0x10
NLM_F_DUMP = 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLMSG_ERROR, NLMSG_DONE = 2, 3
SOL_NETLINK, NETLINK_GET_STRICT_CHK = 270, 12
NOT_FOUND_ERRNOS = frozenset({errno.ENODEV, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENOENT})
FAMILIES = (socket.AF_INET, socket.AF_INET6)
TYPE_MASK = 0x3FFF
"""The bits of an attribute's type, without the flags "nested" and "network byte order"."""
BUFFER_BYTES = 1 << 16
MAX_DUMP_ATTEMPTS = 60
DUMP_BACKOFF_SECONDS = 0.0005
"""The pause before a dump is retried. It grows linearly with each attempt, so that the concurrent writer can finish."""

HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence number, port id."""
_ATTRIBUTE_HEADER = struct.Struct("=HH")
_ERROR_CODE = struct.Struct("=i")

Message = tuple[int, bytes]
"""Message type, and the payload after the header."""
Attributes = dict[int, bytes]


@dataclass(frozen=True, slots=True)
class Dump:
    """A request for a list of objects."""

    kind: int
    body: bytes


class DumpInterruptedError(Exception):
    """The listed objects changed during the dump, so the list may be incomplete (NLM_F_DUMP_INTR)."""


def pack_attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE_HEADER.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def pack_string(kind: int, value: str) -> bytes:
    return pack_attribute(kind, value.encode() + b"\0")


def pack_u32(kind: int, value: int) -> bytes:
    return pack_attribute(kind, struct.pack("=I", value))


def pack_nested(kind: int, values: Mapping[int, bytes]) -> bytes:
    return pack_attribute(kind, b"".join(pack_attribute(inner, value) for inner, value in values.items()))


def parse_attributes(payload: bytes, start: int = 0) -> Attributes:
    """Parses the attributes that begin at `start`, as type → value."""
    found, at, end = {}, start, len(payload)
    while at + 4 <= end:
        length, kind = _ATTRIBUTE_HEADER.unpack_from(payload, at)
        if length < 4:
            break
        found[kind & TYPE_MASK] = payload[at + 4 : at + length]
        at += (length + 3) & ~3
    return found


def parse_u32(value: bytes | None) -> int | None:
    return None if value is None else int.from_bytes(value[:4], "little" if struct.pack("=H", 1)[0] else "big")


def parse_string(value: bytes | None) -> str:
    return "" if value is None else value.rstrip(b"\0").decode(errors="replace")


def parse_messages(datagram: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yields the type, flags and payload of each message."""
    for at, length, kind, flags in _message_headers(datagram):
        yield kind, flags, datagram[at + HEADER.size : at + length]


def _message_headers(datagram: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yields the offset, total length, type and flags of each message."""
    at = 0
    while at + HEADER.size <= len(datagram):
        length, kind, flags, _sequence, _port = HEADER.unpack_from(datagram, at)
        if length < HEADER.size:
            break
        yield at, length, kind, flags
        at += (length + 3) & ~3


def open_socket(protocol: int = socket.NETLINK_ROUTE, groups: int = 0) -> socket.socket:
    """Opens a socket, which stays in the network namespace of the thread that opened it.

    `groups` is the mask of the multicast groups to subscribe to.
    """
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    netlink.bind((0, groups))
    return netlink


class NetlinkSocket:
    """A socket that works in the namespace of the thread that opened it, from any thread.

    Not thread-safe. After an exception a partial response may be left in the socket, so it must be closed.
    """

    def __init__(self, protocol: int = socket.NETLINK_ROUTE) -> None:
        self._socket = open_socket(protocol)
        try:
            # Only messages of the kernel (port 0) are received. A guest's root can send to any socket of its own
            # namespace.
            self._socket.connect((0, 0))
            # Without NETLINK_GET_STRICT_CHK (before Linux 4.20) the kernel ignores the filter of a dump.
            self._socket.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
        except OSError as error:
            if error.errno != errno.ENOPROTOOPT:
                self._socket.close()
                raise

    def fileno(self) -> int:
        """The file descriptor, or -1 if the socket is closed."""
        return self._socket.fileno()

    @property
    def port(self) -> int:
        """The port id, by which other sockets address this one."""
        found: int = self._socket.getsockname()[0]
        return found

    def request(self, kind: int, flags: int, body: bytes) -> list[Message]:
        """Sends one request and returns the response messages. Raises OSError with the kernel's error number."""
        self._send(kind, flags | NLM_F_ACK, body)
        return [(kind, payload) for kind, _flags, payload in parse_messages(self._receive())]

    def dump(self, kind: int, body: bytes) -> bytes:
        """Returns the messages of a dump as bytes. Equal bytes mean an unchanged list. Raises OSError."""
        for attempt in range(MAX_DUMP_ATTEMPTS):
            if attempt:
                time.sleep(attempt * DUMP_BACKOFF_SECONDS)
            self._send(kind, NLM_F_DUMP, body)
            try:
                return self._receive()
            except DumpInterruptedError:
                continue
        raise OSError(errno.EAGAIN, "the list changed during every attempt to dump it")

    def close(self) -> None:
        self._socket.close()

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._socket.send(HEADER.pack(HEADER.size + len(body), kind, flags | NLM_F_REQUEST, 1, 0) + body)

    def _receive(self) -> bytes:
        """Receives the messages up to the acknowledgement or the end of the dump, which is left out."""
        received, interrupted = b"", False
        while True:
            datagram, _ancillary, message_flags, _sender = self._socket.recvmsg(BUFFER_BYTES)
            if message_flags & socket.MSG_TRUNC:
                raise OSError(errno.EMSGSIZE, "a netlink message is longer than the receive buffer")
            for at, length, kind, flags in _message_headers(datagram):
                interrupted = interrupted or bool(flags & NLM_F_DUMP_INTR)
                if kind in (NLMSG_ERROR, NLMSG_DONE):
                    _raise_for_error(datagram[at + HEADER.size : at + length])
                    if interrupted:
                        raise DumpInterruptedError
                    return received + datagram[:at]
            received += datagram


def request(kind: int, flags: int, body: bytes, *, protocol: int = socket.NETLINK_ROUTE) -> list[Message]:
    """Sends one request in the calling thread's namespace and returns the response messages.

    Raises OSError with the kernel's error number.
    """
    with closing(NetlinkSocket(protocol)) as netlink:
        if flags & NLM_F_DUMP == NLM_F_DUMP:
            return [(kind, payload) for kind, _flags, payload in parse_messages(netlink.dump(kind, body))]
        return netlink.request(kind, flags, body)


def delete_if_exists(kind: int, body: bytes) -> None:
    """Sends a deletion, which succeeds if the object is already gone. Raises OSError."""
    try:
        request(kind, 0, body)
    except OSError as error:
        if error.errno not in NOT_FOUND_ERRNOS:
            raise


def format_address(packed: bytes) -> str:
    """Formats an IP address of 4 or 16 bytes."""
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def _raise_for_error(payload: bytes) -> None:
    """Raises OSError unless the error code is 0, which means an acknowledgement."""
    code = -_ERROR_CODE.unpack_from(payload)[0] if len(payload) >= _ERROR_CODE.size else 0
    if code:
        raise OSError(code, os.strerror(code))
