"""A small network and a router for the wiring's tests."""

from __future__ import annotations

from typing import Any

from openimds.netconfig.dhcp_network import DhcpNetwork, dhcp_device_id
from openimds.netconfig.router_namespace import RouterView
from openimds.resources.network import (
    DEVICE_OWNER_DHCP,
    DEVICE_OWNER_ROUTER_GATEWAY,
    DEVICE_OWNER_ROUTER_INTERFACE,
    ExternalGateway,
    FixedIP,
    FloatingIP,
    Network,
    Port,
    Router,
    Subnet,
)

NETWORK = Network(id="2720a749-0377-4ebd-aa12-9d132f1fe450", name="test1", project_id="p", mtu=1442)
SUBNET = Subnet(id="subnet-4", network_id=NETWORK.id, project_id="p", cidr="192.168.40.0/24", gateway_ip="192.168.40.1")
DHCP_PORT = Port(
    id="01e7ee7b-9800-4000-8000-000000000000",
    network_id=NETWORK.id,
    project_id="p",
    mac_address="fa:16:3e:54:93:88",
    fixed_ips=(FixedIP(SUBNET.id, "192.168.40.121"),),
    device_owner=DEVICE_OWNER_DHCP,
    device_id=dhcp_device_id("node1", NETWORK.id),
)
GUEST_PORT = Port(
    id="aaaaaaaa-aaaa-4000-8000-000000000000",
    network_id=NETWORK.id,
    project_id="p",
    mac_address="fa:16:3e:00:00:05",
    fixed_ips=(FixedIP(SUBNET.id, "192.168.40.5"),),
    device_owner="compute:nova",
    device_id="vm1",
)
ROUTER_PORT = Port(
    id="bbbbbbbb-bbbb-4000-8000-000000000000",
    network_id=NETWORK.id,
    project_id="p",
    mac_address="fa:16:3e:00:00:01",
    fixed_ips=(FixedIP(SUBNET.id, "192.168.40.1"),),
    device_owner=DEVICE_OWNER_ROUTER_INTERFACE,
    device_id="router-1",
)

EXTERNAL = Network(id="eeeeeeee-eeee-4000-8000-000000000000", name="ext", project_id="a", external=True)
EXTERNAL_SUBNET = Subnet(
    id="subnet-e", network_id=EXTERNAL.id, project_id="a", cidr="203.0.113.0/24", gateway_ip="203.0.113.1"
)
GATEWAY_PORT = Port(
    id="cccccccc-cccc-4000-8000-000000000000",
    network_id=EXTERNAL.id,
    project_id="",
    mac_address="fa:16:3e:00:00:02",
    fixed_ips=(FixedIP(EXTERNAL_SUBNET.id, "203.0.113.5"),),
    device_owner=DEVICE_OWNER_ROUTER_GATEWAY,
    device_id="router-1",
)
ROUTER = Router(
    id="router-1",
    name="r1",
    project_id="p",
    external_gateway=ExternalGateway(network_id=EXTERNAL.id, external_fixed_ips=GATEWAY_PORT.fixed_ips),
)
FLOATING = FloatingIP(
    id="f1",
    project_id="p",
    floating_network_id=EXTERNAL.id,
    floating_ip_address="203.0.113.50",
    fixed_ip_address="192.168.40.5",
    port_id=GUEST_PORT.id,
    router_id=ROUTER.id,
)


def dhcp_network(
    *ports: Port, subnets: tuple[Subnet, ...] = (SUBNET,), dhcp_port: Port = DHCP_PORT, network: Network = NETWORK
) -> DhcpNetwork:
    return DhcpNetwork(network=network, subnets=subnets, ports=(dhcp_port, *ports), dhcp_port=dhcp_port)


def router_view(
    *,
    router: Router = ROUTER,
    internal: tuple[Port, ...] = (ROUTER_PORT,),
    gateway: Port | None = GATEWAY_PORT,
    floating_ips: tuple[FloatingIP, ...] = (),
    subnets: tuple[Subnet, ...] = (SUBNET, EXTERNAL_SUBNET),
) -> RouterView:
    return RouterView(
        router=router,
        internal_ports=internal,
        gateway_port=gateway,
        subnets={subnet.id: subnet for subnet in subnets},
        networks={NETWORK.id: NETWORK, EXTERNAL.id: EXTERNAL},
        floating_ips=floating_ips,
    )


def subnet_v6(identifier: str = "subnet-6", **changes: Any) -> Subnet:
    fields: dict[str, Any] = {
        "id": identifier,
        "network_id": NETWORK.id,
        "project_id": "p",
        "ip_version": 6,
        "cidr": "2001:db8::/64",
        "gateway_ip": "2001:db8::1",
    }
    return Subnet(**(fields | changes))
