"""A router as its namespace must know it, whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from openimds.netconfig.dhcp_network import is_inside, port_without_ipv6
from openimds.resources.network import FloatingIP, Network, Port, Router, Subnet, is_gateway


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterView:
    """A router with all that hangs on it."""

    router: Router
    internal_ports: tuple[Port, ...]
    """In the order of their ids."""
    gateway_port: Port | None
    subnets: Mapping[str, Subnet]
    """Those of the ports' fixed IPs, by id."""
    networks: Mapping[str, Network]
    """Those of the ports, by id."""
    floating_ips: tuple[FloatingIP, ...]
    """The associated ones of this router, in the order of their ids."""
    has_ipv6_kernel: bool = True
    """False: `without_ipv6`."""

    def without_ipv6(self) -> RouterView:
        """As a host without IPv6 can make it."""
        routes = tuple(route for route in self.router.routes if ":" not in route.destination)
        return replace(
            self,
            router=replace(self.router, routes=routes),
            internal_ports=tuple(port_without_ipv6(port) for port in self.internal_ports),
            gateway_port=port_without_ipv6(self.gateway_port) if self.gateway_port else None,
            subnets={key: subnet for key, subnet in self.subnets.items() if subnet.ip_version == 4},
            has_ipv6_kernel=False,
        )

    @property
    def ports(self) -> tuple[Port, ...]:
        return (*self.internal_ports, *((self.gateway_port,) if self.gateway_port else ()))

    def interface_addresses(self, port: Port) -> tuple[str, ...]:
        """`192.168.40.1/24`, one a fixed IP."""
        return tuple(
            f"{fixed.ip_address}/{self.subnets[fixed.subnet_id].prefix_length}"
            for fixed in port.fixed_ips
            if fixed.subnet_id in self.subnets
        )

    def gateway_subnets(self, port: Port) -> tuple[Subnet, ...]:
        """The subnets that this interface acts for (`resources.network.is_gateway`), in the order of its fixed IPs."""
        subnets = (self.subnets[fixed.subnet_id] for fixed in port.fixed_ips if fixed.subnet_id in self.subnets)
        return tuple(subnet for subnet in subnets if is_gateway(port, subnet))

    def serves_ipv6(self, port: Port) -> bool:
        """Whether guests may find the metadata service at its IPv6 address on this interface."""
        return any(subnet.ip_version == 6 for subnet in self.gateway_subnets(port))

    def device_towards(self, next_hop: str) -> str | None:
        """The device of the port that has `next_hop` on its link."""
        for port in self.ports:
            for fixed in port.fixed_ips:
                subnet = self.subnets.get(fixed.subnet_id)
                if subnet is not None and is_inside(next_hop, subnet.cidr):
                    return port.router_device_name
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterMetadata:
    """`l3_agent.ini`: how requests for metadata are caught."""

    enable_metadata_proxy: bool = True
    metadata_port: int = 9697
    access_mark: int = 0x1
    """The lower 16 bits of the packets' mark."""
