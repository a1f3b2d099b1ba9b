"""Networks and subnets."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from ipaddress import ip_address, ip_network
from itertools import pairwise
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from openimds.resources.caller import Caller
from openimds.resources.errors import BadRequest, Conflict, Forbidden
from openimds.resources.network import DEVICE_OWNER_DHCP, DEVICE_OWNER_ROUTER_INTERFACE
from openimds.store.models.network import FloatingIP, Network, Port, Router, Subnet
from openimds.store.network import ip_math, ipam, ports
from openimds.store.network.access import check_attributes, get_owned, project_for
from openimds.store.network.ip_math import Net, Span
from openimds.store.raw.metadata_store import PROVIDER_TAG

IPV6_MINIMUM_MTU = 1280
"""RFC 8200, section 5."""

COLUMNS = {
    "name": "name",
    "description": "description",
    "admin_state_up": "admin_state_up",
    "shared": "shared",
    "router:external": "external",
    "mtu": "mtu",
    "port_security_enabled": "port_security_enabled",
    "dns_domain": "dns_domain",
    "provider:network_type": "provider_network_type",
    "provider:physical_network": "provider_physical_network",
    "provider:segmentation_id": "provider_segmentation_id",
    "tags": "tags",
}
"""Attribute → column."""

NULLABLE = ("provider:physical_network", "provider:segmentation_id")


def create_network(session: Session, caller: Caller, attributes: Mapping[str, Any], now: datetime) -> Network:
    """Creates a network. Raises Forbidden, BadRequest (provider attributes), Conflict (a segment in use)."""
    project_id = project_for(caller, attributes, "create_network")
    check_attributes(caller, "create_network", _changed(attributes, None), project_id)
    network = Network(
        id=str(uuid.uuid4()),
        project_id=project_id,
        provider_network_type="local",
        created_at=now,
        updated_at=now,
    )
    _set_columns(network, attributes)
    _check_segment(session, network)
    session.add(network)
    session.flush()
    return network


def update_network(
    session: Session, caller: Caller, network_id: str, attributes: Mapping[str, Any], now: datetime
) -> Network:
    """Changes the given attributes. Raises NotFound, Forbidden, BadRequest, and Conflict if the network should no longer be
    shared or external while others use it.
    """
    network = get_owned(session, caller, Network, network_id, "update_network")
    check_attributes(caller, "update_network", _changed(attributes, network), network.project_id)
    if network.shared and attributes.get("shared") is False:
        _refuse_with_foreign_ports(session, network)
    if network.external and attributes.get("router:external") is False:
        _refuse_with_gateways(session, network)
    _check_mtu(network, attributes.get("mtu"))
    _set_columns(network, attributes)
    _check_segment(session, network)
    if session.is_modified(network):
        network.updated_at = now
    session.flush()
    return network


def delete_network(session: Session, caller: Caller, network_id: str, now: datetime) -> None:
    """Deletes a network with its subnets and DHCP ports. Raises NotFound, and Conflict if the network has other ports."""
    network = get_owned(session, caller, Network, network_id, "delete_network")
    on_it = sa.select(Port).where(Port.network_id == network.id)
    holders = session.scalars(on_it.where(Port.attached_owner != DEVICE_OWNER_DHCP).limit(10)).all()
    if holders:
        raise Conflict(
            f"Unable to complete operation on network {network.id}. There are one or more ports still in use on the "
            f"network, id for these ports is {', '.join(port.id for port in holders)}.",
            kind="NetworkInUse",
        )
    for port in session.scalars(on_it).all():
        ports.delete_port(session, port.id, now)
    for subnet in list(network.subnets):
        session.delete(subnet)
    session.flush()
    session.delete(network)
    session.flush()


def _set_columns(network: Network, attributes: Mapping[str, Any]) -> None:
    for name, column in COLUMNS.items():
        if name in attributes and (attributes[name] is not None or name in NULLABLE):
            setattr(network, column, attributes[name])


def _changed(attributes: Mapping[str, Any], current: Network | None) -> list[str]:
    """The attributes with a new value. A client may send the present value of an attribute, or the default (null)."""
    return [name for name in COLUMNS if name in attributes and attributes[name] not in (_value(current, name), None)]


def _value(network: Network | None, name: str) -> Any:
    if network is not None:
        return getattr(network, COLUMNS[name])
    return False if name in ("shared", "router:external") else None


def _check_segment(session: Session, network: Network) -> None:
    """Raises BadRequest for missing or excess provider attributes, and Conflict for the segment of another network."""
    kind, physical, segment = (
        network.provider_network_type,
        network.provider_physical_network,
        network.provider_segmentation_id,
    )
    if kind in ("flat", "vlan") and not physical:
        raise _invalid("provider:physical_network", f"physical_network required for {kind} provider network")
    if kind in ("vlan", "vxlan", "gre", "geneve") and segment is None:
        raise _invalid("provider:segmentation_id", f"segmentation_id required for {kind} provider network")
    if kind not in ("flat", "vlan") and physical:
        raise _invalid("provider:physical_network", f"physical_network specified for {kind} provider network")
    if kind in ("local", "flat") and segment is not None:
        raise _invalid("provider:segmentation_id", f"segmentation_id specified for {kind} provider network")
    if kind == "vlan" and not 1 <= (segment or 0) <= 4094:
        raise _invalid("provider:segmentation_id", f"segmentation_id out of range (1 through 4094): {segment}")
    if kind != "local":
        _refuse_used_segment(session, network)


def _refuse_used_segment(session: Session, network: Network) -> None:
    same = sa.select(Network.id).where(
        Network.id != network.id,
        Network.provider_network_type == network.provider_network_type,
        Network.provider_physical_network.is_not_distinct_from(network.provider_physical_network),
        Network.provider_segmentation_id.is_not_distinct_from(network.provider_segmentation_id),
    )
    with session.no_autoflush:
        if session.scalar(same.limit(1)) is not None:
            raise Conflict(
                f"Unable to create the {network.provider_network_type} network. Physical network "
                f"{network.provider_physical_network}, segment {network.provider_segmentation_id} is in use.",
                kind="FlatNetworkInUse" if network.provider_network_type == "flat" else "VlanIdInUse",
            )


def _check_mtu(network: Network, mtu: int | None) -> None:
    if mtu is not None and mtu < IPV6_MINIMUM_MTU and any(s.ip_version == 6 for s in network.subnets):
        raise _invalid("mtu", f"{mtu} is less than {IPV6_MINIMUM_MTU}, which the network's IPv6 subnets need")


def _refuse_with_foreign_ports(session: Session, network: Network) -> None:
    foreign = sa.select(Port.id).where(Port.network_id == network.id, Port.project_id.not_in([network.project_id, ""]))
    if session.scalar(foreign.limit(1)) is not None:
        raise Conflict(
            f"Unable to reconfigure sharing settings for network {network.name}. Multiple tenants are using it.",
            kind="InvalidSharedSetting",
        )


def _refuse_with_gateways(session: Session, network: Network) -> None:
    used = sa.select(Router.id).where(Router.external_network_id == network.id)
    floating = sa.select(FloatingIP.id).where(FloatingIP.floating_network_id == network.id)
    if session.scalar(used.limit(1)) is not None or session.scalar(floating.limit(1)) is not None:
        raise Conflict(
            f"External network {network.id} cannot be updated to be made non-external, since it has existing gateway "
            "ports.",
            kind="ExternalNetworkInUse",
        )


def _invalid(field: str, reason: str) -> BadRequest:
    return BadRequest(field, f"Invalid input for operation: {field}: {reason}.", kind="InvalidInput")


SLAAC_PREFIX_LENGTH = 64
LONGEST_DHCP_PREFIX = {4: 30, 6: 126}
"""A longer prefix has no room for a gateway, a DHCP server and a client."""


def create_subnet(session: Session, caller: Caller, attributes: Mapping[str, Any], now: datetime) -> Subnet:
    """Creates a subnet. Raises NotFound (network), BadRequest (cidr, gateway_ip, allocation_pools, IPv6 modes), Conflict,
    Forbidden.
    """
    network = get_owned(session, caller, Network, attributes["network_id"], "create_subnet")
    check_tags(caller, "create_subnet", network.project_id, (), attributes.get("tags") or ())
    net = ip_network(attributes["cidr"])
    version = attributes.get("ip_version", net.version)
    _check_versions(attributes, net, version)
    _refuse_overlap(network, net)
    gateway = _gateway(attributes, net)
    subnet = Subnet(
        id=str(uuid.uuid4()),
        network_id=network.id,
        project_id=project_for(caller, {"project_id": network.project_id, **attributes}, "create_subnet"),
        name=attributes.get("name") or "",
        description=attributes.get("description") or "",
        ip_version=version,
        cidr=str(net),
        gateway_ip=gateway,
        enable_dhcp=attributes.get("enable_dhcp", True),
        ipv6_ra_mode=attributes.get("ipv6_ra_mode"),
        ipv6_address_mode=attributes.get("ipv6_address_mode"),
        allocation_pools=_pools(net, gateway, attributes.get("allocation_pools")),
        dns_nameservers=list(attributes.get("dns_nameservers") or ()),
        host_routes=list(attributes.get("host_routes") or ()),
        tags=list(attributes.get("tags") or ()),
        created_at=now,
        updated_at=now,
    )
    _check_modes(subnet, net)
    _check_dhcp(subnet, net)
    _check_contents(subnet)
    network.subnets.append(subnet)
    session.add(subnet)
    network.updated_at = now
    session.flush()
    if ipam.is_automatic(subnet):
        ipam.address_present_ports(session, subnet)
    return subnet


def update_subnet(
    session: Session, caller: Caller, subnet_id: str, attributes: Mapping[str, Any], now: datetime
) -> Subnet:
    """Changes the given attributes. Raises NotFound, BadRequest, and Conflict if a router has the gateway's address."""
    subnet = get_owned(session, caller, Subnet, subnet_id, "update_subnet")
    net = ip_network(subnet.cidr)
    if "gateway_ip" in attributes and attributes["gateway_ip"] != subnet.gateway_ip:
        _change_gateway(session, subnet, net, attributes)
    if attributes.get("allocation_pools") is not None:
        subnet.allocation_pools = _pools(net, subnet.gateway_ip, attributes["allocation_pools"])
    for name in ("name", "description", "enable_dhcp"):
        if attributes.get(name) is not None:
            setattr(subnet, name, attributes[name])
    for name in ("dns_nameservers", "host_routes"):
        if name in attributes:
            setattr(subnet, name, list(attributes[name] or ()))
    _check_modes(subnet, net)
    _check_dhcp(subnet, net)
    _check_contents(subnet)
    if session.is_modified(subnet):
        subnet.updated_at = now
    session.flush()
    return subnet


def delete_subnet(session: Session, caller: Caller, subnet_id: str, now: datetime) -> None:
    """Deletes a subnet and its addresses of DHCP ports and its automatic addresses. Raises NotFound, and Conflict if another
    port has an address in it.
    """
    subnet = get_owned(session, caller, Subnet, subnet_id, "delete_subnet")
    if ipam.has_unremovable_address(session, subnet):
        raise Conflict(
            f"Unable to complete operation on subnet {subnet.id}: One or more ports have an IP allocation from this "
            "subnet.",
            kind="SubnetInUse",
        )
    ipam.remove_addresses(session, subnet)
    network = session.get_one(Network, subnet.network_id)
    network.updated_at = now
    network.subnets.remove(subnet)
    session.delete(subnet)
    session.flush()


def check_tags(caller: Caller, action: str, project_id: str, before: Sequence[str], after: Sequence[str]) -> None:
    """Raises Forbidden for a change of the tags of metadata providers that the policy does not permit."""
    changed = sorted(tag for tag in {*before} ^ {*after} if tag.startswith(PROVIDER_TAG))
    if changed and not caller.may(f"{action}:tags:metadata-provider", project_id):
        raise Forbidden(
            f"tags: only an administrator may add or remove {', '.join(changed)}.", kind="PolicyNotAuthorized"
        )


def _check_versions(attributes: Mapping[str, Any], net: Net, version: int) -> None:
    if version != net.version:
        raise _invalid("cidr", f"Provided cidr {net} is IPv{net.version}, and ip_version is {version}")
    if version == 4:
        for mode in ("ipv6_ra_mode", "ipv6_address_mode"):
            if attributes.get(mode):
                raise _invalid(mode, f"{mode} cannot be used with IPv4")
    if net.is_multicast or net.is_loopback or net.is_unspecified or int(net.network_address) == 0:
        raise _invalid("cidr", f"{net} is not a range that hosts can have")


def _refuse_overlap(network: Network, net: Net) -> None:
    other = ip_math.first_overlap(net, [subnet.cidr for subnet in network.subnets])
    if other:
        raise _invalid(
            "cidr",
            f"Requested subnet with cidr: {net} for network: {network.id} overlaps with another subnet ({other})",
        )


def _gateway(attributes: Mapping[str, Any], net: Net) -> str | None:
    if "gateway_ip" not in attributes:
        return ip_math.default_gateway(net)
    if attributes["gateway_ip"] is None:
        return None
    return _checked_gateway(str(ip_address(attributes["gateway_ip"])), net)


def _checked_gateway(gateway: str, net: Net) -> str:
    value = ip_address(gateway)
    if value.version != net.version or value not in net or int(value) not in ip_math.usable(net):
        # Neutron also accepts an address outside the subnet, to which a guest would have no route.
        raise _invalid("gateway_ip", f"Gateway {gateway} is not valid on subnet {net}")
    return gateway


def _change_gateway(session: Session, subnet: Subnet, net: Net, attributes: Mapping[str, Any]) -> None:
    holder = ipam.owner_of(session, subnet.id, subnet.gateway_ip) if subnet.gateway_ip else None
    if holder is not None and holder.attached_owner == DEVICE_OWNER_ROUTER_INTERFACE:
        raise Conflict(
            f"Current gateway ip {subnet.gateway_ip} already in use by port {holder.id}. Unable to update.",
            kind="GatewayIpInUse",
        )
    new = attributes["gateway_ip"]
    gateway = _checked_gateway(str(ip_address(new)), net) if new else None
    if gateway and attributes.get("allocation_pools") is None:
        _refuse_gateway_in_pools(gateway, ipam.pools(subnet))
    subnet.gateway_ip = gateway


def _pools(net: Net, gateway: str | None, requested: Sequence[Mapping[str, str]] | None) -> list[dict[str, str]]:
    if requested is None:
        spans = ip_math.default_pools(net, gateway)
    else:
        spans = [_checked_pool(pool, net) for pool in requested]
        _refuse_overlapping_pools(spans)
        if gateway:
            _refuse_gateway_in_pools(gateway, spans)
    return [
        {"start": ip_math.text(span.first, net.version), "end": ip_math.text(span.last, net.version)} for span in spans
    ]


def _checked_pool(pool: Mapping[str, str], net: Net) -> Span:
    start, end = ip_address(pool["start"]), ip_address(pool["end"])
    words = f"{pool['start']}-{pool['end']}"
    if start.version != net.version or end.version != net.version or int(start) > int(end):
        raise BadRequest(
            "allocation_pools",
            f"allocation_pools: the allocation pool {words} is not valid.",
            kind="InvalidAllocationPool",
        )
    span = Span(int(start), int(end))
    usable = ip_math.usable(net)
    if span.first not in usable or span.last not in usable:
        raise BadRequest(
            "allocation_pools",
            f"allocation_pools: the allocation pool {words} spans beyond the subnet cidr {net}.",
            kind="OutOfBoundsAllocationPool",
        )
    return span


def _refuse_overlapping_pools(spans: Sequence[Span]) -> None:
    ordered = sorted(spans)
    for one, other in pairwise(ordered):
        if one.overlaps(other):
            raise Conflict("Found overlapping allocation pools for one subnet.", kind="OverlappingAllocationPools")


def _refuse_gateway_in_pools(gateway: str, spans: Sequence[Span]) -> None:
    if any(ip_math.number(gateway) in span for span in spans):
        raise Conflict(
            f"Gateway ip {gateway} conflicts with the subnet's allocation pools: it is inside one of them.",
            kind="GatewayConflictWithAllocationPools",
        )


def _check_modes(subnet: Subnet, net: Net) -> None:
    ra, address = subnet.ipv6_ra_mode, subnet.ipv6_address_mode
    if not ra and not address:
        return
    if not subnet.enable_dhcp:
        raise _invalid("enable_dhcp", "ipv6_ra_mode or ipv6_address_mode cannot be set when enable_dhcp is false")
    if ra and address and ra != address:
        raise _invalid(
            "ipv6_ra_mode", f"ipv6_ra_mode set to '{ra}' with ipv6_address_mode set to '{address}' is not valid"
        )
    if (address or ra) in ipam.AUTOMATIC_MODES and net.prefixlen != SLAAC_PREFIX_LENGTH:
        raise _invalid("cidr", f"Invalid CIDR {net} for IPv6 address mode. OpenStack uses the EUI-64 address format, "
                               "which requires the prefix to be /64")  # fmt: skip


def _check_dhcp(subnet: Subnet, net: Net) -> None:
    if subnet.enable_dhcp and net.prefixlen > LONGEST_DHCP_PREFIX[subnet.ip_version]:
        raise _invalid(
            "cidr", f"Subnet {net} has a prefix length that is incompatible with DHCP service enabled (enable_dhcp)"
        )


def _check_contents(subnet: Subnet) -> None:
    for server in subnet.dns_nameservers:
        if ip_address(server).version != subnet.ip_version:
            raise _invalid("dns_nameservers", f"{server} is not an IPv{subnet.ip_version} address")
    for route in subnet.host_routes:
        versions = {ip_network(route["destination"]).version, ip_address(route["nexthop"]).version}
        if versions != {subnet.ip_version}:
            raise _invalid(
                "host_routes", f"{route['destination']} via {route['nexthop']} is not IPv{subnet.ip_version}"
            )
