"""IPv6 addresses that duplicate address detection (RFC 4862, 5.4) has found to be somebody else's.

The kernel keeps such an address, marked `tentative dadfailed`, and never looks again by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_interface

from openimds.linux.netlink.addresses import add_address, delete_address
from openimds.linux.netlink.links import link_named
from openimds.linux.netns import netns
from openimds.linux.netns.handles import NamespaceHandle


@dataclass(frozen=True, slots=True)
class DadState:
    """What is known of an address by now. Neither flag: it is ours."""

    is_duplicate: bool
    is_tentative: bool
    is_unanswered: bool = False
    """It failed, but by now nobody answers for the address."""


def dad_state(window: NamespaceHandle, device: str, interface: str) -> DadState | None:
    """`interface`: `fe80::a9fe:a9fe/64`. None: it is not there. Raises OSError."""
    address = str(ip_interface(interface).ip)
    index = next((link.index for link in window.links() if link.name == device), None)
    for found in window.addresses():
        if found.link_index == index and found.interface.partition("/")[0] == address:
            return DadState(found.duplicate, found.tentative and not found.duplicate)
    return None


def restart_dad(namespace: str, device: str, interface: str) -> None:
    """Take the address away and set it anew: while it is looked for, nothing is answered for it.

    Raises OSError, NamespaceMissingError.
    """

    def work() -> None:
        link = link_named(device)
        if link is not None:
            delete_address(link.index, interface)
            add_address(link.index, interface, detect_duplicates=True)

    netns.run_in(namespace, work)
