"""Kernel notifications as text, for tests that assert that nothing was changed."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping

from openimds.linux.netlink.addresses import RTM_DELADDR, RTM_NEWADDR, parse_address
from openimds.linux.netlink.links import RTM_DELLINK, RTM_NEWLINK, parse_link
from openimds.linux.netlink.routes import RTM_DELROUTE, RTM_NEWROUTE
from openimds.linux.netlink.socket import BUFFER_BYTES, parse_messages


def _hex(payload: bytes) -> str:
    return payload.hex()


_DESCRIPTIONS: Mapping[int, tuple[str, Callable[[bytes], object]]] = {
    RTM_NEWLINK: ("link is", parse_link),
    RTM_DELLINK: ("link was deleted", parse_link),
    RTM_NEWADDR: ("address is", parse_address),
    RTM_DELADDR: ("address was deleted", parse_address),
    RTM_NEWROUTE: ("route is", _hex),
    RTM_DELROUTE: ("route was deleted", _hex),
}


def pending(netlink: socket.socket) -> list[str]:
    """Returns the pending notifications of a socket, one entry per message, without waiting."""
    found: list[str] = []
    while True:
        try:
            found += _describe(netlink.recv(BUFFER_BYTES, socket.MSG_DONTWAIT))
        except BlockingIOError:
            return found


def _describe(datagram: bytes) -> Iterator[str]:
    for kind, _flags, payload in parse_messages(datagram):
        text, read = _DESCRIPTIONS.get(kind, (f"message of kind {kind}:", _hex))
        yield f"{text} {read(payload)}"
