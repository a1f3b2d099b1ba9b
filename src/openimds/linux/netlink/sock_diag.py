"""TCP sockets that listen in a network namespace: sock_diag(7), as used by `ss -tl`.

To dump the sockets of a namespace, the kernel scans the sockets of all namespaces. To find the socket of one address, it
uses a hash table. So the lookup is preferred on a host with many namespaces. /proc/net/tcp contains the same list as the
dump, but the kernel scans the connection table of the whole host for it: 10 to 20 ms where the dump takes 0.1 ms.
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
"""struct inet_diag_req_v2: family, protocol, extensions, padding, mask of states, and an id that a dump ignores."""
_LOOKUP_REQUEST = struct.Struct("=BBBBI2s2x16s16xIII")
"""The same struct with an id: local port and address, no remote end, device index, no cookie."""
_INET_DIAG_MSG = struct.Struct("=4xH2x16s16x12x16xI")
"""struct inet_diag_msg: source port and address of the id, and the inode after expiry, queues and user."""
_STATE_OFFSET = 1
_PROC_TCP_LISTEN = "0A"

ListeningSockets = dict[tuple[str, int], frozenset[int]]
"""(address, port) → inodes of the sockets that listen there."""


def find_listener(sock_diag: NetlinkSocket, address: ListenAddress) -> int | None:
    """Returns the inode of a socket that listens at the address, or None.

    If several sockets share the address (SO_REUSEPORT), the result is the same one as long as they stay the same. A
    link-local address needs the index of its device. Raises OSError if the kernel does not support the lookup
    (`has_sock_diag`).
    """
    family = socket.AF_INET6 if address.is_ipv6 else socket.AF_INET
    host, port = socket.inet_pton(family, address.host), socket.htons(address.port)
    socket_id = (port.to_bytes(2, sys.byteorder), host, address.device_index, INET_DIAG_NOCOOKIE, INET_DIAG_NOCOOKIE)
    body = _LOOKUP_REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, 1 << TCP_LISTEN, *socket_id)
    try:
        replies = sock_diag.request(SOCK_DIAG_BY_FAMILY, 0, body)
    except FileNotFoundError:
        return None
    for _kind, payload in replies:
        found_port, packed, inode = _INET_DIAG_MSG.unpack_from(payload)
        # The kernel also returns a wildcard socket, and an IPv6 socket for an IPv4 address.
        if (payload[0], payload[_STATE_OFFSET], found_port, packed[: len(host)]) == (family, TCP_LISTEN, port, host):
            return int(inode)
    return None


@functools.cache
def has_sock_diag() -> bool:
    """True if the kernel supports `find_listener`. Without support the lookup would report that no socket listens."""
    try:
        any(True for family in (socket.AF_INET, socket.AF_INET6) for _ in _dump_listeners(family))
    except OSError as error:
        if error.errno not in UNSUPPORTED_ERRNOS:
            raise
        return False
    return True


def listening_sockets() -> ListeningSockets:
    """Lists the listening sockets of the calling thread's namespace."""
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
    """Reads proc_net_tcp(5), for kernels without sock_diag for TCP. Listening sockets come first in the file."""
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
    """Parses an address: `FEA9FEA9` is 169.254.169.254, in words of four bytes in the machine's byte order."""
    words = struct.pack(f"={len(text) // 8}I", *(int(text[at : at + 8], 16) for at in range(0, len(text), 8)))
    return str(IPv4Address(words) if len(words) == 4 else IPv6Address(words))
