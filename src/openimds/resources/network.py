"""Network resources, with the terms of Neutron's API reference (Networking v2.0)."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address

DEVICE_OWNER_DHCP = "network:dhcp"
DEVICE_OWNER_ROUTER_INTERFACE = "network:router_interface"
DEVICE_OWNER_ROUTER_GATEWAY = "network:router_gateway"
DEVICE_OWNER_FLOATING_IP = "network:floatingip"
DEVICE_OWNER_COMPUTE_PREFIX = "compute:"

NETWORK_OWNER_PREFIX = "network:"
"""Device owners of the network service itself. Tenants cannot set them."""

BINDING_ATTRIBUTE = "openimds:binding"
"""A port's attribute for administrators and agents: the recorded attachment and the state of its binding."""

DEVICE_ID_CHARS = 11
"""Characters of a port's or network's id in a device name. IFNAMSIZ is 16 including the NUL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    id: str
    name: str
    project_id: str
    mtu: int = 1500
    shared: bool = False
    external: bool = False
    admin_state_up: bool = True
    port_security_enabled: bool = True
    dns_domain: str = ""

    @property
    def bridge_name(self) -> str:
        """`brq2ca23c47-9d`, the name that Neutron's Linux bridge agent gives the bridge."""
        return f"brq{self.id[:DEVICE_ID_CHARS]}"


@dataclass(frozen=True, slots=True)
class HostRoute:
    destination: str
    """CIDR."""
    nexthop: str


@dataclass(frozen=True, slots=True)
class AllocationPool:
    start: str
    end: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Subnet:
    id: str
    network_id: str
    project_id: str
    name: str = ""
    ip_version: int = 4
    cidr: str
    gateway_ip: str | None = None
    enable_dhcp: bool = True
    dns_nameservers: tuple[str, ...] = ()
    host_routes: tuple[HostRoute, ...] = ()
    allocation_pools: tuple[AllocationPool, ...] = ()
    ipv6_ra_mode: str | None = None
    """`slaac`, `dhcpv6-stateful`, `dhcpv6-stateless` or None."""
    ipv6_address_mode: str | None = None

    @property
    def prefix_length(self) -> int:
        return int(self.cidr.rsplit("/", 1)[1])


@dataclass(frozen=True, slots=True)
class FixedIP:
    subnet_id: str
    ip_address: str


@dataclass(frozen=True, slots=True)
class AddressPair:
    ip_address: str
    """An address or a CIDR."""
    mac_address: str | None = None


@dataclass(frozen=True, slots=True)
class ExtraDhcpOption:
    name: str
    value: str
    ip_version: int = 4


@dataclass(frozen=True, slots=True)
class Attachment:
    """The association of a port with a device, recorded by the call that made it: server boot, interface attach, router
    interface or gateway, floating IP, DHCP agent. It is never derived from a port's `device_id` and `device_owner`,
    because tenants can write these.
    """

    device_owner: str = ""
    """`compute:<zone>`, `network:router_interface` … Empty if the port is not attached."""
    device_id: str = ""


UNATTACHED = Attachment()


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    id: str
    network_id: str
    project_id: str
    name: str = ""
    mac_address: str
    fixed_ips: tuple[FixedIP, ...] = ()
    device_id: str = ""
    """The device of the recorded attachment if the cloud has one (openimds), else Neutron's `device_id`."""
    device_owner: str = ""
    """The owner, from the same source as `device_id`."""
    host: str = ""
    """`binding:host_id`."""
    admin_state_up: bool = True
    status: str = "DOWN"
    """`ACTIVE`, `DOWN` or `BUILD`."""
    port_security_enabled: bool = True
    allowed_address_pairs: tuple[AddressPair, ...] = ()
    security_group_ids: tuple[str, ...] = ()
    extra_dhcp_options: tuple[ExtraDhcpOption, ...] = ()
    dns_name: str = ""
    binding_generation: int = 0
    """Counts the port's bindings. A report about an earlier binding has no effect."""
    provisioning_blocks: tuple[str, ...] | None = field(default=None, compare=False)
    """Entities (`l2`, `dhcp`) that must still report before the port is ACTIVE. The list only shrinks within one
    binding generation, so it does not take part in comparisons. None if the cloud does not show it."""

    @property
    def tap_name(self) -> str:
        """`tap01e7ee7b-98`: an instance's or a DHCP port's device on the host."""
        return f"tap{self.id[:DEVICE_ID_CHARS]}"

    def awaits(self, entity: str) -> bool:
        """Returns True if the control API still waits for the report of `entity` (`l2`, `dhcp`)."""
        if self.status == "ACTIVE":
            return False
        return self.provisioning_blocks is None or entity in self.provisioning_blocks

    @property
    def router_device_name(self) -> str:
        """`qr-…` for a router's internal port, `qg-…` for its gateway, inside the router's namespace."""
        prefix = "qg-" if self.device_owner == DEVICE_OWNER_ROUTER_GATEWAY else "qr-"
        return f"{prefix}{self.id[:DEVICE_ID_CHARS]}"

    @property
    def ip_addresses(self) -> tuple[str, ...]:
        return tuple(fixed.ip_address for fixed in self.fixed_ips)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalGateway:
    network_id: str
    enable_snat: bool = True
    external_fixed_ips: tuple[FixedIP, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Router:
    id: str
    name: str
    project_id: str
    admin_state_up: bool = True
    external_gateway: ExternalGateway | None = None
    routes: tuple[HostRoute, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatingIP:
    id: str
    project_id: str
    floating_network_id: str
    floating_ip_address: str
    fixed_ip_address: str | None = None
    port_id: str | None = None
    router_id: str | None = None


def is_gateway(port: Port, subnet: Subnet) -> bool:
    """Returns True if a router's interface acts for the subnet's network: it has the subnet's gateway address, or it
    belongs to the subnet's project.

    Any project may attach its router to a network that is shared with it, by a port of its own. Such a router may route
    its own traffic there. It does not identify the network's guests, and it advertises nothing to them.
    """
    if port.project_id == subnet.project_id:
        return True
    gateway = ip_address(subnet.gateway_ip) if subnet.gateway_ip else None
    return any(fixed.subnet_id == subnet.id and ip_address(fixed.ip_address) == gateway for fixed in port.fixed_ips)


def dhcp_namespace(network_id: str, prefix: str = "") -> str:
    """`qdhcp-<network id>`. `prefix` separates two openimds systems on one machine."""
    return f"{prefix}qdhcp-{network_id}"


def router_namespace(router_id: str, prefix: str = "") -> str:
    """`qrouter-<router id>`."""
    return f"{prefix}qrouter-{router_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifiedChange:
    """The IDs of the resources that a notification of Neutron or Nova names. It may be a creation, a change or a deletion."""

    port_ids: frozenset[str] = frozenset()
    port_network_ids: frozenset[str] = frozenset()
    """The networks of these ports. Empty if the notification does not contain them."""
    router_ids: frozenset[str] = frozenset()
    network_ids: frozenset[str] = frozenset()
    """The networks whose subnets or router interfaces changed, or that were deleted."""
    instance_ids: frozenset[str] = frozenset()
