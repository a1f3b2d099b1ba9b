"""What others must hear, and what the kernel must forget, when a router's addresses change."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Protocol

import structlog

from openimds.agents.protocols import RunProgram
from openimds.netconfig.namespace_state import NamespaceState
from openimds.netconfig.router_view import RouterView

logger = structlog.get_logger(__name__)


class Announce(Protocol):
    """Gratuitous ARP: the address is at this device now."""

    def __call__(self, namespace: str, device: str, address: str) -> None: ...


class GratuitousArp:
    """A neighbour that had an address from somebody else before would go on sending there until its entry is old."""

    def __init__(self, announce: Announce) -> None:
        self._announce = announce
        self._announced: dict[str, frozenset[tuple[str, str]]] = {}
        """By router: (device, address)."""

    def make(self, router_id: str, state: NamespaceState) -> tuple[str, ...]:
        """No change of ours, so no words. For every IPv4 address that is new since the last time. Raises what announcing raises."""
        addresses = frozenset(_ipv4_addresses(state))
        for device, address in sorted(addresses - self._announced.get(router_id, frozenset())):
            self._announce(state.name, device, address)
        self._announced[router_id] = addresses
        return ()

    def forget(self, router_id: str) -> None:
        self._announced.pop(router_id, None)


class FloatingIpConntrack:
    """A connection that was translated once goes on being translated after its floating IP was taken away."""

    def __init__(self, run: RunProgram) -> None:
        self._run = run
        self._floating: dict[str, frozenset[tuple[str, str]]] = {}
        """By router: (floating address, fixed address)."""
        self._complained = False

    def end(self, view: RouterView, namespace: str) -> None:
        """Those by floating IPs which are no more, or are another instance's now."""
        pairs = frozenset((one.floating_ip_address, one.fixed_ip_address or "") for one in view.floating_ips)
        for floating, fixed in sorted(self._floating.get(view.router.id, frozenset()) - pairs):
            self._delete(namespace, "--orig-dst", floating)
            self._delete(namespace, "--orig-src", fixed, "--reply-dst", floating)
        self._floating[view.router.id] = pairs

    def forget(self, router_id: str) -> None:
        self._floating.pop(router_id, None)

    def _delete(self, namespace: str, *which: str) -> None:
        """Conntrack ends with an error where there was nothing to delete; where it did not run at all, there is no code."""
        try:
            self._run(("conntrack", "-D", *which), namespace=namespace)
        except Exception as error:  # noqa: BLE001 - whatever the runner raises
            logger.debug("no connection was ended", namespace=namespace, which=which, error=str(error))
            if getattr(error, "exit_code", None) is None and not self._complained:
                self._complained = True
                logger.warning(
                    "connections by a floating IP that was taken away go on until they end by themselves; "
                    "install conntrack to have them ended",
                    error=str(error),
                )


def _ipv4_addresses(state: NamespaceState) -> Iterator[tuple[str, str]]:
    for device in state.devices:
        for interface in device.addresses or ():
            address = ipaddress.ip_interface(interface)
            if address.version == 4:
                yield device.name, str(address.ip)
