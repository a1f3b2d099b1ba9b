"""Networks: made, changed, removed."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from openimds.resources.caller import Caller
from openimds.resources.errors import BadRequest, Conflict
from openimds.resources.network import DEVICE_OWNER_DHCP
from openimds.store.models.network import FloatingIP, Network, Port, Router
from openimds.store.network import ports
from openimds.store.network.access import get_owned, project_for, require_admin

OPERATORS_ONLY = (
    "shared",
    "router:external",
    "provider:network_type",
    "provider:physical_network",
    "provider:segmentation_id",
)
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


def create(session: Session, caller: Caller, attributes: Mapping[str, Any], now: datetime) -> Network:
    """Raises Forbidden, BadRequest (provider attributes), Conflict (a segment in use)."""
    _check_rights(caller, attributes, current=None)
    network = Network(
        id=str(uuid.uuid4()),
        project_id=project_for(caller, dict(attributes)),
        provider_network_type="local",
        created_at=now,
        updated_at=now,
    )
    _set_columns(network, attributes)
    _check_segment(session, network)
    session.add(network)
    session.flush()
    return network


def update(session: Session, caller: Caller, network_id: str, attributes: Mapping[str, Any], now: datetime) -> Network:
    """Raises NotFound, Forbidden, BadRequest, Conflict (no longer shared or external while others use it)."""
    network = get_owned(session, caller, Network, network_id)
    _check_rights(caller, attributes, current=network)
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


def delete(session: Session, caller: Caller, network_id: str, now: datetime) -> None:
    """With its subnets and its DHCP ports. Raises NotFound; Conflict when other ports are on it."""
    network = get_owned(session, caller, Network, network_id)
    on_it = session.scalars(sa.select(Port).where(Port.network_id == network.id)).all()
    holders = [port for port in on_it if port.attached_owner != DEVICE_OWNER_DHCP]
    if holders:
        raise Conflict(
            f"Unable to complete operation on network {network.id}. There are one or more ports still in use on the "
            f"network, id for these ports is {', '.join(port.id for port in holders[:10])}.",
            kind="NetworkInUse",
        )
    for port in on_it:
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


def _check_rights(caller: Caller, attributes: Mapping[str, Any], current: Network | None) -> None:
    """Clients may say what is so anyway (`shared: false`) without being operators."""
    for name in OPERATORS_ONLY:
        if name in attributes and attributes[name] not in (_value(current, name), None):
            require_admin(caller, dict(attributes), name)


def _value(network: Network | None, name: str) -> Any:
    if network is not None:
        return getattr(network, COLUMNS[name])
    return False if name in ("shared", "router:external") else None


def _check_segment(session: Session, network: Network) -> None:
    """What a provider network must name, and that no other network is the same segment."""
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
