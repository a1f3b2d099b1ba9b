"""The attributes of each kind of resource. The routes validate requests by these tables, and /openapi.json lists them.

An attribute of Neutron's that openimds does not implement is accepted with the value that means "not used"
(`qos_policy_id: null`). Other values are rejected with 501.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from openimds.control_api.network import validators
from openimds.control_api.network.validators import IntRange, ListOf, Nullable, OneOf, Struct, Validator
from openimds.resources.errors import NotSupported


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """One attribute of a request body."""

    check: Validator
    create: bool = True
    """True if POST accepts the attribute."""
    update: bool = True
    """True if PUT accepts the attribute."""
    required: bool = False
    """True if POST needs the attribute."""
    stored: bool = True
    """False if the attribute is validated and then dropped."""


@dataclass(frozen=True, slots=True)
class MustBeUnset:
    """Validator of an attribute that openimds does not implement. It accepts only values that mean "not used"."""

    values: tuple[Any, ...]

    def __call__(self, field: str, value: Any) -> Any:
        if value in self.values:
            return value
        raise NotSupported(f"openimds does not have {field}: leave it out.", kind="HTTPNotImplemented")


def _unsupported(*values: Any) -> Attribute:
    return Attribute(check=MustBeUnset((None, *values)), stored=False)


TEXT = Attribute(check=validators.text)
NULLABLE_TEXT = Attribute(check=validators.text_or_null)
FLAG = Attribute(check=validators.boolean)
OWNER = Attribute(check=validators.project_id, update=False)
TAGS = Attribute(check=ListOf(validators.tag), update=False)

COMMON: Mapping[str, Attribute] = {
    "name": NULLABLE_TEXT,
    "description": NULLABLE_TEXT,
    "project_id": OWNER,
    "tenant_id": OWNER,
    "tags": TAGS,
}

ROUTE = Struct({"destination": validators.cidr, "nexthop": validators.address}, frozenset({"destination", "nexthop"}))
POOL = Struct({"start": validators.address, "end": validators.address}, frozenset({"start", "end"}))
PAIR = Struct(
    {"ip_address": validators.address_or_cidr, "mac_address": validators.mac_or_null}, frozenset({"ip_address"})
)
IPV6_MODE = Attribute(check=Nullable(OneOf(("slaac", "dhcpv6-stateful", "dhcpv6-stateless"))), update=False)

NETWORK: Mapping[str, Attribute] = {
    **COMMON,
    "admin_state_up": FLAG,
    "shared": FLAG,
    "router:external": FLAG,
    "mtu": Attribute(check=IntRange(68, 65535)),
    "port_security_enabled": FLAG,
    "dns_domain": TEXT,
    "provider:network_type": Attribute(
        check=Nullable(OneOf(("local", "flat", "vlan", "vxlan", "gre", "geneve"))), update=False
    ),
    "provider:physical_network": Attribute(check=validators.text_or_null, update=False),
    "provider:segmentation_id": Attribute(check=Nullable(IntRange(0, 2**24 - 1)), update=False),
    "is_default": _unsupported(False),
    "vlan_transparent": _unsupported(False),
    "qos_policy_id": _unsupported(),
    "availability_zone_hints": _unsupported([], ["nova"]),
    "segments": _unsupported([]),
}

SUBNET: Mapping[str, Attribute] = {
    **COMMON,
    "network_id": Attribute(check=validators.uuid, update=False, required=True),
    "cidr": Attribute(check=validators.cidr, update=False, required=True),
    "ip_version": Attribute(check=OneOf((4, 6)), update=False),
    "gateway_ip": Attribute(check=validators.address_or_null),
    "allocation_pools": Attribute(check=ListOf(POOL)),
    "enable_dhcp": FLAG,
    "ipv6_ra_mode": IPV6_MODE,
    "ipv6_address_mode": IPV6_MODE,
    "dns_nameservers": Attribute(check=ListOf(validators.address)),
    "host_routes": Attribute(check=ListOf(ROUTE)),
    "prefixlen": _unsupported(),
    "subnetpool_id": _unsupported(),
    "use_default_subnetpool": _unsupported(False),
    "segment_id": _unsupported(),
    "service_types": _unsupported([]),
    "dns_publish_fixed_ip": _unsupported(False),
}

PORT: Mapping[str, Attribute] = {
    **COMMON,
    "network_id": Attribute(check=validators.uuid, update=False, required=True),
    "admin_state_up": FLAG,
    "mac_address": Attribute(check=validators.mac_or_null),
    "fixed_ips": Attribute(check=validators.fixed_ips),
    "device_id": NULLABLE_TEXT,
    "device_owner": NULLABLE_TEXT,
    "security_groups": Attribute(check=ListOf(validators.uuid)),
    "port_security_enabled": FLAG,
    "allowed_address_pairs": Attribute(check=ListOf(PAIR)),
    "extra_dhcp_opts": Attribute(check=ListOf(validators.dhcp_option)),
    "dns_name": Attribute(check=validators.dns_name),
    "binding:host_id": NULLABLE_TEXT,
    "binding:vnic_type": Attribute(check=OneOf(("normal",))),
    "binding:profile": Attribute(check=validators.json_object),
    "qos_policy_id": _unsupported(),
    "dns_domain": _unsupported(""),
    "numa_affinity_policy": _unsupported(),
    "propagate_uplink_status": _unsupported(False),
    "hints": _unsupported({}),
    "device_profile": _unsupported(""),
    "mac_learning_enabled": _unsupported(False),
}

ROUTER: Mapping[str, Attribute] = {
    **COMMON,
    "admin_state_up": FLAG,
    "external_gateway_info": Attribute(check=validators.gateway_info),
    "routes": Attribute(check=ListOf(ROUTE)),
    "distributed": _unsupported(False),
    "ha": _unsupported(False),
    "flavor_id": _unsupported(""),
    "service_type_id": _unsupported(),
    "availability_zone_hints": _unsupported([], ["nova"]),
    "enable_ndp_proxy": _unsupported(False),
    "enable_default_route_bfd": _unsupported(False),
    "enable_default_route_ecmp": _unsupported(False),
}

FLOATING_IP: Mapping[str, Attribute] = {
    **{name: attribute for name, attribute in COMMON.items() if name != "name"},
    "floating_network_id": Attribute(check=validators.uuid, update=False, required=True),
    "floating_ip_address": Attribute(check=validators.address_or_null, update=False),
    "subnet_id": Attribute(check=validators.uuid_or_null, update=False),
    "port_id": Attribute(check=validators.uuid_or_null),
    "fixed_ip_address": Attribute(check=validators.address_or_null),
    "qos_policy_id": _unsupported(),
    "dns_name": _unsupported(""),
    "dns_domain": _unsupported(""),
    "distributed": _unsupported(False),
}

SECURITY_GROUP: Mapping[str, Attribute] = {
    **COMMON,
    "name": Attribute(check=validators.text),
    "stateful": _unsupported(True),
    "shared": _unsupported(False),
}

ATTRIBUTE_MAP: Mapping[str, Mapping[str, Attribute]] = {
    "network": NETWORK,
    "subnet": SUBNET,
    "port": PORT,
    "router": ROUTER,
    "floatingip": FLOATING_IP,
    "security_group": SECURITY_GROUP,
}

KIND_BY_COLLECTION: Mapping[str, str] = {
    "networks": "network",
    "subnets": "subnet",
    "ports": "port",
    "routers": "router",
    "floatingips": "floatingip",
    "security-groups": "security_group",
}
"""Path segment → kind."""


def plural(kind: str) -> str:
    """The key of a list in a body: `security_group` → `security_groups`."""
    return f"{kind}s"
