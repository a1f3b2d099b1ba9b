"""Netlink's messages as they are on the wire: netlink(7), rtnetlink(7), and Linux' include/uapi/linux/netlink.h.

A message is a header, a fixed body of its kind, and attributes (length, type, value, each padded to 4 bytes); an
attribute's value may be attributes again. Numbers have the machine's byte order. Written out here because an agent
with a thousand namespaces asks some thousand questions a second, and a general library took a millisecond for each.
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
"""An attribute's type without the flags "nested" and "network byte order"."""
BUFFER_BYTES = 1 << 16
MAX_DUMP_ATTEMPTS = 60
DUMP_BACKOFF_SECONDS = 0.0005
"""After the first try, and more with each: whoever changes things that fast is to come to an end."""

HEADER = struct.Struct("=IHHII")
"""Length, kind, flags, sequence number, port."""
_ATTRIBUTE_HEADER = struct.Struct("=HH")
_ERROR_CODE = struct.Struct("=i")

Message = tuple[int, bytes]
"""Its kind, and what follows the header."""
Attributes = dict[int, bytes]


@dataclass(frozen=True, slots=True)
class Dump:
    """A request for a list."""

    kind: int
    body: bytes


class DumpInterruptedError(Exception):
    """What was listed changed meanwhile: the list may lack something."""


def pack_attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE_HEADER.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def pack_string(kind: int, value: str) -> bytes:
    return pack_attribute(kind, value.encode() + b"\0")


def pack_u32(kind: int, value: int) -> bytes:
    return pack_attribute(kind, struct.pack("=I", value))


def pack_nested(kind: int, values: Mapping[int, bytes]) -> bytes:
    return pack_attribute(kind, b"".join(pack_attribute(inner, value) for inner, value in values.items()))


def parse_attributes(payload: bytes, start: int = 0) -> Attributes:
    """Type → value, of what begins at `start`."""
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
    """Kind, flags and payload of each."""
    for at, length, kind, flags in _message_headers(datagram):
        yield kind, flags, datagram[at + HEADER.size : at + length]


def _message_headers(datagram: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Where each message begins, its length with the header, kind and flags."""
    at = 0
    while at + HEADER.size <= len(datagram):
        length, kind, flags, _sequence, _port = HEADER.unpack_from(datagram, at)
        if length < HEADER.size:
            break
        yield at, length, kind, flags
        at += (length + 3) & ~3


def open_socket(protocol: int = socket.NETLINK_ROUTE, groups: int = 0) -> socket.socket:
    """It speaks to the namespace of the thread that opens it, for ever. `groups`: notifications to hear (a mask)."""
    conversation = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    conversation.bind((0, groups))
    return conversation


class NetlinkSocket:
    """A socket that goes on speaking to the namespace of the thread that opened it, whichever thread asks.

    Not for two threads at once. What raises may leave half an answer behind: close it then.
    """

    def __init__(self, protocol: int = socket.NETLINK_ROUTE) -> None:
        self._socket = open_socket(protocol)
        try:
            # Heard by the kernel, and nobody else is heard: a guest's root may send to any socket of its namespace.
            self._socket.connect((0, 0))
            # Without strict checks (before Linux 4.20) the kernel ignores what a dump should be limited to.
            self._socket.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
        except OSError as error:
            if error.errno != errno.ENOPROTOOPT:
                self._socket.close()
                raise

    def fileno(self) -> int:
        """-1: it is closed."""
        return self._socket.fileno()

    @property
    def port(self) -> int:
        """By which others could send to it."""
        found: int = self._socket.getsockname()[0]
        return found

    def ask(self, kind: int, flags: int, body: bytes) -> list[Message]:
        """One request, and what is said to it. Raises OSError with the kernel's number."""
        self._send(kind, flags | NLM_F_ACK, body)
        return [(kind, payload) for kind, _flags, payload in parse_messages(self._answer())]

    def dump(self, kind: int, body: bytes) -> bytes:
        """The messages as they came; the same while what is listed is the same. Raises OSError."""
        for tried in range(MAX_DUMP_ATTEMPTS):
            if tried:
                time.sleep(tried * DUMP_BACKOFF_SECONDS)
            self._send(kind, NLM_F_DUMP, body)
            try:
                return self._answer()
            except DumpInterruptedError:
                continue
        raise OSError(errno.EAGAIN, "what was listed changed faster than it could be read")

    def close(self) -> None:
        self._socket.close()

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._socket.send(HEADER.pack(HEADER.size + len(body), kind, flags | NLM_F_REQUEST, 1, 0) + body)

    def _answer(self) -> bytes:
        """Until the acknowledgement or a dump's end, and without it."""
        said, interrupted = b"", False
        while True:
            datagram, _ancillary, marks, _sender = self._socket.recvmsg(BUFFER_BYTES)
            if marks & socket.MSG_TRUNC:
                raise OSError(errno.EMSGSIZE, "a message of the kernel's is longer than was thought possible")
            for at, length, kind, flags in _message_headers(datagram):
                interrupted = interrupted or bool(flags & NLM_F_DUMP_INTR)
                if kind in (NLMSG_ERROR, NLMSG_DONE):
                    _raise_for_error(datagram[at + HEADER.size : at + length])
                    if interrupted:
                        raise DumpInterruptedError
                    return said + datagram[:at]
            said += datagram


def request(kind: int, flags: int, body: bytes, *, protocol: int = socket.NETLINK_ROUTE) -> list[Message]:
    """One request in the calling thread's namespace, and what is said to it. Raises OSError with the kernel's number."""
    with closing(NetlinkSocket(protocol)) as conversation:
        if flags & NLM_F_DUMP == NLM_F_DUMP:
            return [(kind, payload) for kind, _flags, payload in parse_messages(conversation.dump(kind, body))]
        return conversation.ask(kind, flags, body)


def delete_if_exists(kind: int, body: bytes) -> None:
    """Takes something away that may not be there any more. Raises OSError."""
    try:
        request(kind, 0, body)
    except OSError as error:
        if error.errno not in NOT_FOUND_ERRNOS:
            raise


def format_address(packed: bytes) -> str:
    """An IP address of four or sixteen bytes."""
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def _raise_for_error(payload: bytes) -> None:
    """An acknowledgement is an error whose number is 0."""
    code = -_ERROR_CODE.unpack_from(payload)[0] if len(payload) >= _ERROR_CODE.size else 0
    if code:
        raise OSError(code, os.strerror(code))
