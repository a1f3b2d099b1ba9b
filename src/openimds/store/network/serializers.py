"""Rows as the JSON objects of Neutron's API reference, with all attributes. Some of them are for administrators only.

`render` needs one query for the related rows, however many rows it converts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, selectinload

from openimds.resources.network import BINDING_ATTRIBUTE, DEVICE_OWNER_ROUTER_GATEWAY
from openimds.store.models.base import Agent
from openimds.store.models.network import FloatingIP, Network, Port, Router, SecurityGroup, Subnet

DEFAULT_ZONE = "nova"
DEFAULT_DNS_DOMAIN = "openstacklocal."


@lru_cache(4096)
def time_text(moment: datetime) -> str:
    """`2026-11-21T10:00:00Z`, as Neutron writes times."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def network_json(row: Network, *, is_admin: bool) -> dict[str, Any]:
    """A network, with `provider:*` for administrators."""
    shown = {
        **_common(row),
        "admin_state_up": row.admin_state_up,
        "status": "ACTIVE",
        "mtu": row.mtu,
        "subnets": [subnet.id for subnet in row.subnets],
        "shared": row.shared,
        "router:external": row.external,
        "is_default": False,
        "port_security_enabled": row.port_security_enabled,
        "dns_domain": row.dns_domain,
        "availability_zone_hints": [],
        "availability_zones": [DEFAULT_ZONE],
        "ipv4_address_scope": None,
        "ipv6_address_scope": None,
    }
    if is_admin:
        shown["provider:network_type"] = row.provider_network_type
        shown["provider:physical_network"] = row.provider_physical_network
        shown["provider:segmentation_id"] = row.provider_segmentation_id
    return shown


def subnet_json(row: Subnet, *, is_admin: bool) -> dict[str, Any]:
    """A subnet."""
    del is_admin
    return {
        **_common(row),
        "network_id": row.network_id,
        "ip_version": row.ip_version,
        "cidr": row.cidr,
        "gateway_ip": row.gateway_ip,
        "enable_dhcp": row.enable_dhcp,
        "ipv6_ra_mode": row.ipv6_ra_mode,
        "ipv6_address_mode": row.ipv6_address_mode,
        "allocation_pools": row.allocation_pools,
        "dns_nameservers": row.dns_nameservers,
        "host_routes": row.host_routes,
        "subnetpool_id": None,
        "service_types": [],
        "segment_id": None,
        "dns_publish_fixed_ip": False,
    }


def port_json(row: Port, *, is_admin: bool) -> dict[str, Any]:
    """A port, with its binding for administrators."""
    shown = {
        **_common(row),
        "network_id": row.network_id,
        "mac_address": row.mac_address,
        "fixed_ips": [{"subnet_id": ip.subnet_id, "ip_address": ip.ip_address} for ip in row.fixed_ips],
        "device_id": row.device_id,
        "device_owner": row.device_owner,
        "admin_state_up": row.admin_state_up,
        "status": row.status,
        "security_groups": row.security_group_ids,
        "port_security_enabled": row.port_security_enabled,
        "allowed_address_pairs": row.allowed_address_pairs,
        "extra_dhcp_opts": row.extra_dhcp_opts,
        "dns_name": row.dns_name,
        "dns_assignment": _dns_assignment(row),
        "binding:vnic_type": row.vnic_type,
    }
    if is_admin:
        shown["binding:host_id"] = row.host
        shown["binding:profile"] = row.binding_profile
        shown["binding:vif_type"] = "bridge" if row.host else "unbound"
        shown["binding:vif_details"] = {"port_filter": True, "connectivity": "l2"} if row.host else {}
        shown[BINDING_ATTRIBUTE] = {
            "device_id": row.attached_id,
            "device_owner": row.attached_owner,
            "generation": row.binding_generation,
            "provisioning_blocks": row.provisioning,
        }
    return shown


def router_json(row: Router, gateway: Port | None, *, is_admin: bool) -> dict[str, Any]:
    """A router with the fixed IPs of its gateway port."""
    del is_admin
    external = None
    if row.external_network_id:
        external = {
            "network_id": row.external_network_id,
            "enable_snat": row.enable_snat,
            "external_fixed_ips": [
                {"subnet_id": ip.subnet_id, "ip_address": ip.ip_address}
                for ip in (gateway.fixed_ips if gateway else ())
            ],
        }
    return {
        **_common(row),
        "admin_state_up": row.admin_state_up,
        "status": "ACTIVE",
        "external_gateway_info": external,
        "routes": row.routes,
        "distributed": False,
        "ha": False,
        "flavor_id": None,
        "availability_zone_hints": [],
        "availability_zones": [DEFAULT_ZONE],
    }


def floating_ip_json(row: FloatingIP, port: Port | None, *, is_admin: bool) -> dict[str, Any]:
    """A floating IP with its port."""
    del is_admin
    return {
        **_common(row, name=False),
        "floating_network_id": row.floating_network_id,
        "floating_ip_address": row.floating_ip_address,
        "fixed_ip_address": row.fixed_ip_address,
        "port_id": row.port_id,
        "router_id": row.router_id,
        "status": "ACTIVE" if row.port_id else "DOWN",
        "dns_name": "",
        "dns_domain": "",
        "port_details": _port_details(port) if port else None,
        "port_forwardings": [],
        "qos_policy_id": None,
    }


def security_group_json(row: SecurityGroup, *, is_admin: bool) -> dict[str, Any]:
    """A security group. Its list of rules is always empty, because openimds does not enforce rules."""
    del is_admin
    return {
        **_common(row, revision=1),
        "stateful": True,
        "shared": False,
        "security_group_rules": [],
    }


def agent_json(row: Agent, *, alive: bool) -> dict[str, Any]:
    """An agent. Times have no zone, as in Neutron's agents API."""
    return {
        "id": row.id,
        "agent_type": row.agent_type,
        "binary": row.binary,
        "host": row.host,
        "topic": "N/A",
        "admin_state_up": True,
        "alive": alive,
        "availability_zone": DEFAULT_ZONE,
        "configurations": row.configurations,
        "created_at": str(row.created_at.replace(microsecond=0)),
        "started_at": str(row.started_at.replace(microsecond=0)),
        "heartbeat_timestamp": str(row.heartbeat_at.replace(microsecond=0)),
        "description": None,
        "resources_synced": None,
    }


def _common(row: Any, *, name: bool = True, revision: int | None = None) -> dict[str, Any]:
    named = {"name": row.name} if name else {}
    return {
        "id": row.id,
        **named,
        "project_id": row.project_id,
        "tenant_id": row.project_id,
        "description": row.description,
        "tags": row.tags,
        "revision_number": row.revision_number if revision is None else revision,
        "created_at": time_text(row.created_at),
        "updated_at": time_text(row.updated_at),
    }


def _dns_assignment(row: Port) -> list[dict[str, str]]:
    return [_dns_record(row.dns_name, ip.ip_address) for ip in row.fixed_ips]


def _dns_record(dns_name: str, address: str) -> dict[str, str]:
    hostname = dns_name or "host-" + address.replace(".", "-").replace(":", "-")
    return {"ip_address": address, "hostname": hostname, "fqdn": f"{hostname}.{DEFAULT_DNS_DOMAIN}"}


def _port_details(port: Port) -> dict[str, Any]:
    return {
        "name": port.name,
        "network_id": port.network_id,
        "mac_address": port.mac_address,
        "admin_state_up": port.admin_state_up,
        "status": port.status,
        "device_id": port.device_id,
        "device_owner": port.device_owner,
    }


SIMPLE: Mapping[type[Any], Callable[..., dict[str, Any]]] = {
    Network: network_json,
    Subnet: subnet_json,
    Port: port_json,
    SecurityGroup: security_group_json,
}


def render(session: Session, rows: Sequence[Any], *, is_admin: bool) -> list[dict[str, Any]]:
    """The JSON of rows of one kind, in the same order."""
    if not rows:
        return []
    kind = type(rows[0])
    if kind is Router:
        return _routers(session, rows, is_admin=is_admin)
    if kind is FloatingIP:
        return _floating_ips(session, rows, is_admin=is_admin)
    return [SIMPLE[kind](row, is_admin=is_admin) for row in rows]


MANY = 500
"""Longer lists of ids exceed the limit of a port_ids, so the whole table is read instead."""


def _among(column: Any, ids: Sequence[str]) -> sa.ColumnElement[bool]:
    return column.in_(ids) if len(ids) <= MANY else sa.true()


def _routers(session: Session, rows: Sequence[Router], *, is_admin: bool) -> list[dict[str, Any]]:
    gateways = session.scalars(
        sa.select(Port)
        .where(
            Port.attached_owner == DEVICE_OWNER_ROUTER_GATEWAY,
            _among(Port.attached_id, [row.id for row in rows if row.external_network_id]),
        )
        .options(selectinload(Port.fixed_ips))
    )
    by_router = {port.attached_id: port for port in gateways}
    return [router_json(row, by_router.get(row.id), is_admin=is_admin) for row in rows]


def _floating_ips(session: Session, rows: Sequence[FloatingIP], *, is_admin: bool) -> list[dict[str, Any]]:
    port_ids = [row.port_id for row in rows if row.port_id]
    ports = session.scalars(sa.select(Port).where(_among(Port.id, port_ids)))
    by_id = {port.id: port for port in ports}
    return [floating_ip_json(row, by_id.get(row.port_id or ""), is_admin=is_admin) for row in rows]
