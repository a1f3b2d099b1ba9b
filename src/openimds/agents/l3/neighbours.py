"""What others must hear, and what the kernel must forget, when a router's addresses change.

A neighbour that had the address from somebody else before would go on sending there until its ARP entry is old; and a
connection that was translated goes on being translated after its floating IP was taken away.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import structlog

from openimds.agents.l3.edges import Run
from openimds.wiring.router import RouterView
from openimds.wiring.state import NamespaceState

ANNOUNCEMENTS = 2

logger = structlog.get_logger(__name__)


class Announcer:
    """Remembers, for each router, what was announced and translated."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._announced: dict[str, frozenset[tuple[str, str]]] = {}
        self._floating: dict[str, frozenset[tuple[str, str]]] = {}

    def announce(self, router_id: str, state: NamespaceState) -> None:
        """Gratuitous ARP for every IPv4 address that is new since the last time."""
        addresses = frozenset(_ipv4_addresses(state))
        for device, address in sorted(addresses - self._announced.get(router_id, frozenset())):
            self._attempt(
                state.name, "arping", "-U", "-b", "-c", str(ANNOUNCEMENTS), "-i", "0.01", "-I", device, address
            )
        self._announced[router_id] = addresses

    def forget_translations(self, view: RouterView, namespace: str) -> None:
        """Connections that went by floating IPs which are no more, or are another instance's now."""
        pairs = frozenset((one.floating_ip_address, one.fixed_ip_address or "") for one in view.floating_ips)
        for floating, fixed in sorted(self._floating.get(view.router.id, frozenset()) - pairs):
            self._attempt(namespace, "conntrack", "-D", "--orig-dst", floating)
            self._attempt(namespace, "conntrack", "-D", "--orig-src", fixed, "--reply-dst", floating)
        self._floating[view.router.id] = pairs

    def forget(self, router_id: str) -> None:
        self._announced.pop(router_id, None)
        self._floating.pop(router_id, None)

    def _attempt(self, namespace: str, *argv: str) -> None:
        """Neither is worth failing for: caches expire, and conntrack ends with 1 where nothing was to be deleted."""
        try:
            self._run(argv, namespace=namespace)
        except Exception as error:  # noqa: BLE001 - whatever the runner raises
            logger.debug("not done", program=argv[0], namespace=namespace, error=str(error))


def _ipv4_addresses(state: NamespaceState) -> Iterator[tuple[str, str]]:
    for device in state.devices:
        for interface in device.addresses or ():
            address = ipaddress.ip_interface(interface)
            if address.version == 4:
                yield device.name, str(address.ip)
