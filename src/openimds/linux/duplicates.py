"""IPv6 addresses that duplicate address detection (RFC 4862, 5.4) has found to be somebody else's.

The kernel keeps such an address, marked `tentative dadfailed`, and never looks again by itself.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import ip_interface

from pyroute2 import IPRoute

from openimds.linux import netlink, netns

IFA_F_DADFAILED = 0x08
IFA_F_TENTATIVE = 0x40


@dataclass(frozen=True, slots=True)
class Detection:
    """What is known of an address by now. Neither flag: it is ours."""

    failed: bool
    under_way: bool


def detection(namespace: str, device: str, interface: str) -> Detection | None:
    """`interface`: `fe80::a9fe:a9fe/64`. None: it is not there. Raises NamespaceMissingError."""
    address = str(ip_interface(interface).ip)

    def look() -> Detection | None:
        link = netlink.link_named(device)
        if link is None:
            return None
        with IPRoute() as route:
            found = [m for m in route.get_addr(family=socket.AF_INET6, index=link.index) if _is(m, address)]
        flags = (found[0].get_attr("IFA_FLAGS") or found[0]["flags"]) if found else 0
        failed = bool(flags & IFA_F_DADFAILED)
        return Detection(failed, bool(flags & IFA_F_TENTATIVE) and not failed) if found else None

    return netns.in_namespace(namespace, look)


def detect_again(namespace: str, device: str, interface: str) -> None:
    """Take the address away and set it anew: while it is looked for, nothing is answered for it.

    Raises OSError, NamespaceMissingError.
    """

    def work() -> None:
        link = netlink.link_named(device)
        if link is not None:
            netlink.delete_address(link.index, interface)
            netlink.add_address(link.index, interface, detect_duplicates=True)

    netns.in_namespace(namespace, work)


def _is(message: object, address: str) -> bool:
    return message.get_attr("IFA_ADDRESS") == address  # type: ignore[attr-defined, no-any-return]
