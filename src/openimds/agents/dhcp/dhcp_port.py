"""The DHCP port of this host on a network: found again by what it is called, made where it is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from openimds.agents.provisioning_blocks import ProvisioningApi
from openimds.netconfig.dhcp_network import dhcp_device_id, own_dhcp_port, wanted_fixed_ips
from openimds.resources.network import DEVICE_OWNER_DHCP, FixedIP, Network, Port, Subnet


class PortsApi(ProvisioningApi, Protocol):
    """The control API, or a real Neutron. Bodies without envelope."""

    def ports(self, **filters: Any) -> list[Port]: ...
    def create_port(self, body: Mapping[str, Any]) -> Port: ...
    def update_port(self, port_id: str, body: Mapping[str, Any]) -> Port: ...
    def delete_port(self, port_id: str) -> None: ...


class DhcpPorts:
    """Makes, changes and deletes the DHCP ports of one host. Every method raises the API's errors."""

    def __init__(self, api: PortsApi, host: str) -> None:
        self._api = api
        self._host = host

    def ensure(
        self, network: Network, subnets: Iterable[Subnet], known: Iterable[Port]
    ) -> tuple[Port, tuple[str, ...]]:
        """The port with one address on each DHCP subnet, and what was done for it, in words."""
        subnets = tuple(subnets)
        port = own_dhcp_port(known, self._host, network.id)
        if port is None or wanted_fixed_ips(subnets, port) is not None:
            port = self._listed(network.id)
        fixed_ips = wanted_fixed_ips(subnets, port)
        if port is not None and fixed_ips is None:
            return port, ()
        if port is None:
            port = self._api.create_port(self._body(network, fixed_ips or ()))
            words = f"create DHCP port {port.id} ({', '.join(port.ip_addresses)})"
        else:
            port = self._api.update_port(port.id, {"fixed_ips": _spelled(fixed_ips or ())})
            words = f"change DHCP port {port.id} ({', '.join(port.ip_addresses)})"
        return port, (words,)

    def delete(self, network_id: str, known: Iterable[Port]) -> tuple[str, ...]:
        """Idempotent."""
        port = own_dhcp_port(known, self._host, network_id) or self._listed(network_id)
        if port is None:
            return ()
        self._api.delete_port(port.id)
        return (f"delete DHCP port {port.id}",)

    def _listed(self, network_id: str) -> Port | None:
        """The view may be older than the last pass, or than another run of this agent. The control API is asked instead of a
        memory, because anybody may delete the port there.
        """
        device_id = dhcp_device_id(self._host, network_id)
        found = self._api.ports(network_id=network_id, device_owner=DEVICE_OWNER_DHCP, device_id=device_id)
        return own_dhcp_port(found, self._host, network_id)

    def _body(self, network: Network, fixed_ips: Iterable[FixedIP]) -> dict[str, object]:
        return {
            "network_id": network.id,
            "project_id": network.project_id,
            "name": "",
            "admin_state_up": True,
            "device_owner": DEVICE_OWNER_DHCP,
            "device_id": dhcp_device_id(self._host, network.id),
            "binding:host_id": self._host,
            "fixed_ips": _spelled(fixed_ips),
        }


def _spelled(fixed_ips: Iterable[FixedIP]) -> list[dict[str, str]]:
    return [
        {"subnet_id": fixed.subnet_id} | ({"ip_address": fixed.ip_address} if fixed.ip_address else {})
        for fixed in fixed_ips
    ]
