"""IPv6 addresses that duplicate address detection (RFC 4862, 5.4) has found to be somebody else's.

The kernel keeps such an address, marked `tentative dadfailed`, and never looks again by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_interface

from openimds.linux import netlink, netns


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
        for found in netlink.addresses():
            if found.link_index == link.index and str(ip_interface(found.interface).ip) == address:
                return Detection(found.duplicate, found.tentative and not found.duplicate)
        return None

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
