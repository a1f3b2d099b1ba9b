"""Neutron's answer to where somebody behind a router may be, for those whom the mirror does not know."""

from __future__ import annotations

from openimds.agents.metadata.protocols import Ports
from openimds.guest_identity.addresses import Address
from openimds.guest_identity.router_networks import Behind, is_router_interface


def ask_networks(ports: Ports, router_id: str, address: Address, device: str = "") -> list[str]:
    """As `identity.reach.Behind.networks`; none when there is no such router. Raises ControlAwayError."""
    found = ports.ports({"device_id": router_id})
    # The query matches text that tenants can write. The decoded port has the recorded attachment.
    interfaces = [port for port in found if is_router_interface(port) and port.device_id == router_id]
    networks = {port.network_id for port in interfaces}
    if not networks:
        return []
    subnets = {subnet.id: subnet for subnet in ports.subnets({"network_id": sorted(networks)})}
    return sorted(Behind(interfaces, subnets).networks(address, device))
