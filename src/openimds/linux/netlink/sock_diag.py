"""Which TCP sockets listen in a network namespace: sock_diag(7), as `ss -tl` asks.

The kernel finds all of a namespace's by looking at those of all namespaces, and one at an address at once: who keeps
many namespaces asks for one. /proc/net/tcp says what the list says, but is made from the whole host's table of
connections: 10 to 20 ms where the list takes a tenth of one.
"""

from __future__ import annotations

import errno
import functools
import socket
import struct
import sys
from collections import defaultdict
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

from openimds.linux.netlink.socket import NLM_F_DUMP, NetlinkSocket, request
from openimds.netconfig.listener_file import ListenAddress

NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY = 4, 20
INET_DIAG_NOCOOKIE = 0xFFFFFFFF
TCP_LISTEN = 10
UNSUPPORTED_ERRNOS = frozenset({errno.ENOENT, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EINVAL})

_DUMP_REQUEST = struct.Struct("=BBBBI48x")
"""struct inet_diag_req_v2: family, protocol, extensions, padding, states (a mask); an id that nothing is asked of."""
_LOOKUP_REQUEST = struct.Struct("=BBBBI2s2x16s16xIII")
"""The same with an id: the port and the address that are listened at, nobody on the other side, a device, no cookie."""
_INET_DIAG_MSG = struct.Struct("=4xH2x16s16x12x16xI")
"""struct inet_diag_msg: the id's source port and address, and behind expiry, queues and user the inode."""
_STATE_OFFSET = 1
_PROC_TCP_LISTEN = "0A"

ListeningSockets = dict[tuple[str, int], frozenset[int]]
"""(address, port) → the inodes of the sockets that listen there."""


def find_listener(conversation: NetlinkSocket, address: ListenAddress) -> int | None:
    """The inode of a socket that listens there; None: there is none. Of several (SO_REUSEPORT) it is always the same one
    while they are the same. A link-local address must have its device's index.

    Raises OSError where the kernel cannot say (`knows_listeners`).
    """
    family = socket.AF_INET6 if address.is_ipv6 else socket.AF_INET
    host, port = socket.inet_pton(family, address.host), socket.htons(address.port)
    its_id = (port.to_bytes(2, sys.byteorder), host, address.device_index, INET_DIAG_NOCOOKIE, INET_DIAG_NOCOOKIE)
    body = _LOOKUP_REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, 1 << TCP_LISTEN, *its_id)
    try:
        answers = conversation.ask(SOCK_DIAG_BY_FAMILY, 0, body)
    except FileNotFoundError:
        return None
    for _kind, payload in answers:
        found_port, packed, inode = _INET_DIAG_MSG.unpack_from(payload)
        # One that listens at any address, or of IPv4 at an IPv6 socket, is found too.
        if (payload[0], payload[_STATE_OFFSET], found_port, packed[: len(host)]) == (family, TCP_LISTEN, port, host):
            return int(inode)
    return None


@functools.cache
def has_sock_diag() -> bool:
    """Whether this kernel answers `listener_at`; where it does not, it would say that there is none."""
    try:
        any(True for family in (socket.AF_INET, socket.AF_INET6) for _ in _dump_listeners(family))
    except OSError as error:
        if error.errno not in UNSUPPORTED_ERRNOS:
            raise
        return False
    return True


def listening_sockets() -> ListeningSockets:
    """Those of the calling thread's namespace."""
    found: dict[tuple[str, int], set[int]] = defaultdict(set)
    try:
        for family in (socket.AF_INET, socket.AF_INET6):
            for key, inode in _dump_listeners(family):
                found[key].add(inode)
    except OSError as error:
        if error.errno not in UNSUPPORTED_ERRNOS:
            raise
        for key, inode in _read_proc_net_tcp():
            found[key].add(inode)
    return {key: frozenset(inodes) for key, inodes in found.items()}


def _dump_listeners(family: int) -> Iterator[tuple[tuple[str, int], int]]:
    body = _DUMP_REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, 1 << TCP_LISTEN)
    for _kind, payload in request(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, body, protocol=NETLINK_SOCK_DIAG):
        port, packed, inode = _INET_DIAG_MSG.unpack_from(payload)
        host = packed if payload[0] == socket.AF_INET6 else packed[:4]
        yield (socket.inet_ntop(payload[0], host), socket.ntohs(port)), inode


def _read_proc_net_tcp() -> Iterator[tuple[tuple[str, int], int]]:
    """proc_net_tcp(5), where those that listen come first. For a kernel that has no sock_diag for TCP."""
    for name in ("tcp", "tcp6"):
        try:
            with open(f"/proc/thread-self/net/{name}", encoding="ascii") as table:
                next(table)
                for line in table:
                    _, local, _, state, _, _, _, _, _, inode, *_ = line.split()
                    if state != _PROC_TCP_LISTEN:
                        break
                    host, _, port = local.partition(":")
                    yield (_parse_proc_address(host), int(port, 16)), int(inode)
        except FileNotFoundError:
            continue


def _parse_proc_address(text: str) -> str:
    """`FEA9FEA9` is 169.254.169.254: words of four bytes, each as a number of this machine."""
    words = struct.pack(f"={len(text) // 8}I", *(int(text[at : at + 8], 16) for at in range(0, len(text), 8)))
    return str(IPv4Address(words) if len(words) == 4 else IPv6Address(words))
