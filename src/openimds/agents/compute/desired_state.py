"""The desired state of the servers of this host, derived from the mirror."""

from __future__ import annotations

from dataclasses import dataclass

from openimds.agents.protocols import CloudView
from openimds.netconfig.namespace_state import Bridge, Device, NamespaceState
from openimds.netconfig.netns_instance import nic_name, nic_plan
from openimds.netconfig.port_security import PortFilter, closed_filter, port_filter
from openimds.resources.network import Network, Port
from openimds.resources.server import Server, instance_namespace


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredServer:
    """The desired state of a server. Equal values mean that nothing has to be done."""

    server: Server
    ports: tuple[Port, ...]
    """The server's ports that the view contains, in the order of the NICs."""
    bridges: tuple[Bridge, ...]
    namespace: NamespaceState
    filters: tuple[PortFilter, ...]
    nics: str
    """The NIC plans of all ports: netconfig.netns_instance.nic_plan."""
    fault: str | None = None
    """The reason why the server cannot be plugged in; None if it can."""

    @property
    def missing_ports(self) -> tuple[str, ...]:
        """The ids of the ports that a boot waits for, because they are absent or not ACTIVE."""
        active = {port.id for port in self.ports if port.status == "ACTIVE" or not port.admin_state_up}
        return tuple(port_id for port_id in self.server.port_ids if port_id not in active)


def desired_servers(view: CloudView, *, host: str, namespace_prefix: str, owner_uid: int) -> dict[str, DesiredServer]:
    """The desired state of each server of this host, by id."""
    return {
        server.id: _desired_server(server, view, namespace_prefix, owner_uid)
        for server in view.servers.values()
        if server.host == host
    }


def _desired_server(server: Server, view: CloudView, namespace_prefix: str, owner_uid: int) -> DesiredServer:
    nics = [(port, view.networks[port.network_id]) for port in _ports(server, view)]
    ports = tuple(port for port, _ in nics)
    bridges = dict.fromkeys(Bridge(name=network.bridge_name, mtu=network.mtu) for _, network in nics)
    namespace = NamespaceState(
        name=instance_namespace(server.id, namespace_prefix),
        devices=tuple(_device(server, port, network) for port, network in nics),
        routes=None,
        owner_uid=owner_uid,
    )
    filters, fault = _filters(ports, view)
    return DesiredServer(
        server=server,
        ports=ports,
        bridges=tuple(bridges),
        namespace=namespace,
        filters=filters,
        fault=fault,
        nics="".join(nic_plan(nic_name(server.port_ids.index(port.id)), port, view.subnets) for port in ports),
    )


def _ports(server: Server, view: CloudView) -> list[Port]:
    ports = [view.ports[port_id] for port_id in server.port_ids if port_id in view.ports]
    return [port for port in ports if port.network_id in view.networks and port.device_id == server.id]


def _device(server: Server, port: Port, network: Network) -> Device:
    return Device(
        name=nic_name(server.port_ids.index(port.id)),
        host_name=port.tap_name,
        bridge=network.bridge_name,
        mac_address=port.mac_address,
        mtu=network.mtu,
        addresses=None,
        up=port.admin_state_up,
    )


def _filters(ports: tuple[Port, ...], view: CloudView) -> tuple[tuple[PortFilter, ...], str | None]:
    """The filters of the ports, and the first fault. A malformed port gets the filter that drops every packet."""
    filters, faults = [], []
    for port in ports:
        subnets = [subnet for subnet in view.subnets.values() if subnet.network_id == port.network_id]
        try:
            filters.append(port_filter(port, subnets))
        except ValueError as error:
            faults.append(f"port {port.id}: {error}")
            filters.append(closed_filter(port))
    return tuple(filter_ for filter_ in filters if filter_ is not None), faults[0] if faults else None
