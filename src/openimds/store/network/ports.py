"""Ports: made, bound, changed and removed in a session that the caller holds (`Store.write()`).

`attributes` are in Neutron's names and already of the right form (web/control/network/attributes.py checks requests;
code of ours that makes ports gives the same): `network_id`, `fixed_ips`, `mac_address`, `device_id`, `binding:host_id` …
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from openimds.resources.caller import Caller
from openimds.resources.errors import BadRequest, Conflict
from openimds.resources.network import (
    DEVICE_OWNER_COMPUTE_PREFIX,
    DEVICE_OWNER_DHCP,
    DEVICE_OWNER_FLOATING_IP,
    DEVICE_OWNER_ROUTER_GATEWAY,
    DEVICE_OWNER_ROUTER_INTERFACE,
)
from openimds.store.models.networks import Network, Subnet
from openimds.store.models.ports import Port, SecurityGroup
from openimds.store.models.routers import FloatingIP
from openimds.store.network import allocation, port_policy, security_groups
from openimds.store.network.finding import find, find_own, project_for

MAC_BASE = "fa:16:3e"
"""Neutron's `base_mac`: an OUI of its own, the rest random."""

MAC_TRIES = 16

NETWORK_OWNER_PREFIX = "network:"

OWNED_BY_ROUTERS = frozenset({DEVICE_OWNER_ROUTER_INTERFACE, DEVICE_OWNER_ROUTER_GATEWAY, DEVICE_OWNER_FLOATING_IP})
"""Ports that live and die with something else, and are deleted through it."""

PLAIN_COLUMNS = {
    "name": "name",
    "description": "description",
    "admin_state_up": "admin_state_up",
    "device_id": "device_id",
    "device_owner": "device_owner",
    "binding:host_id": "host",
    "binding:vnic_type": "vnic_type",
    "binding:profile": "binding_profile",
    "port_security_enabled": "port_security_enabled",
    "allowed_address_pairs": "allowed_address_pairs",
    "dns_name": "dns_name",
    "tags": "tags",
}
"""Attribute → column, where the value is kept as it is given."""


def create_port(session: Session, caller: Caller, attributes: Mapping[str, Any], now: datetime) -> Port:
    """Make a port with its addresses, its MAC and, unless told otherwise, its project's default security group.

    Raises NotFound (network), BadRequest (fixed_ips, mac_address …), Conflict (address or MAC in use, pools exhausted),
    Forbidden (what only the network's owner or an administrator may set).
    """
    network = find(session, caller, Network, attributes["network_id"])
    port_policy.check_create(caller, network, attributes)
    port = Port(
        id=attributes.get("id") or str(uuid.uuid4()),
        network_id=network.id,
        project_id=_project(caller, network, attributes),
        mac_address=_mac_address(session, network.id, attributes.get("mac_address")),
        port_security_enabled=network.port_security_enabled,
        device_id="",
        device_owner="",
        host="",
        status="DOWN",
        extra_dhcp_opts=attributes.get("extra_dhcp_opts") or [],
        created_at=now,
        updated_at=now,
    )
    _set_columns(port, attributes)
    _set_security_groups(session, caller, port, attributes.get("security_groups"), now)
    port_policy.check_consistent(port)
    session.add(port)
    session.flush()
    wanted = attributes.get("fixed_ips")
    allocation.assign(session, port, allocation.choose(session, port, network.subnets, wanted))
    port.provisioning = _entities(session, port)
    return port


def update_port(session: Session, caller: Caller, port_id: str, attributes: Mapping[str, Any], now: datetime) -> Port:
    """Change what is named; the rest stays. The same errors as `create_port`."""
    port = find_own(session, caller, Port, port_id)
    network = session.get_one(Network, port.network_id)
    port_policy.check_update(caller, network, port, attributes)
    was = _plugging(port)
    _set_columns(port, attributes)
    if "mac_address" in attributes and attributes["mac_address"] != port.mac_address:
        port.mac_address = _mac_address(session, network.id, attributes["mac_address"])
    if attributes.get("security_groups") is not None:
        _set_security_groups(session, caller, port, attributes["security_groups"], now)
    if "extra_dhcp_opts" in attributes:
        port.extra_dhcp_opts = _merged_options(port.extra_dhcp_opts, attributes["extra_dhcp_opts"] or [])
    port_policy.check_consistent(port)
    if "fixed_ips" in attributes:
        gone = _change_addresses(session, port, network, attributes["fixed_ips"])
        free_floating_ips(session, port.id, now, gone)
    if _plugging(port) != was:
        unplug(session, port)
    if session.is_modified(port):
        port.updated_at = now
    session.flush()
    return port


def delete_port(session: Session, port_id: str, now: datetime) -> None:
    """Remove a port and free its addresses; floating IPs that lead to it stay, free. Gone already is success."""
    port = session.get(Port, port_id)
    if port is None:
        return
    free_floating_ips(session, port.id, now)
    session.delete(port)
    session.flush()


def delete_own_port(session: Session, caller: Caller, port_id: str, now: datetime) -> None:
    """The same at a person's wish: not what belongs to a router or a floating IP. Raises NotFound, Conflict."""
    port = find_own(session, caller, Port, port_id)
    if port.device_owner in OWNED_BY_ROUTERS:
        raise Conflict(
            f"Port {port.id} cannot be deleted directly via the port API: it has device owner {port.device_owner}.",
            kind="ServicePortInUse",
        )
    delete_port(session, port.id, now)


def bind_port(session: Session, port: Port, *, host: str, device_id: str, device_owner: str) -> None:
    """Give the port to a device on a host; it turns ACTIVE when all of `provisioning` has reported."""
    port.host, port.device_id, port.device_owner = host, device_id, device_owner
    unplug(session, port)


def unbind_port(session: Session, port: Port) -> None:
    """Take the port from its device; it keeps its addresses."""
    bind_port(session, port, host="", device_id="", device_owner="")


def ports_of_device(session: Session, device_id: str) -> Sequence[Port]:
    """All ports of a server or a router, oldest first."""
    rows = sa.select(Port).where(Port.device_id == device_id)
    return session.scalars(rows.order_by(Port.created_at, Port.id)).all()


def provisioned(session: Session, port_id: str, entity: str) -> None:
    """One part of the port (`dhcp`, `l2`) is in place; ACTIVE when none is missing. Said twice, it is as said once."""
    port = session.get(Port, port_id)
    if port is None:
        return
    port.provisioning = [missing for missing in port.provisioning if missing != entity]
    if not port.provisioning and _is_plugged_somewhere(port):
        port.status = "ACTIVE"


def unplugged(session: Session, port_id: str) -> None:
    """The port's device is gone from its host: DOWN until `l2` is reported again."""
    port = session.get(Port, port_id)
    if port is not None:
        port.status = "DOWN"
        port.provisioning = [*(e for e in port.provisioning if e != "l2"), "l2"] if _is_plugged_somewhere(port) else []


def unplug(session: Session, port: Port) -> None:
    """All parts of the port are to report (again), before it is ACTIVE."""
    port.status = "DOWN"
    port.provisioning = _entities(session, port)


def free_floating_ips(session: Session, port_id: str, now: datetime, gone: frozenset[str] | None = None) -> None:
    """Floating IPs that lead to the port (or to one of the addresses that it lost) lead nowhere any more."""
    for floating in session.scalars(sa.select(FloatingIP).where(FloatingIP.port_id == port_id)):
        if gone is None or floating.fixed_ip_address in gone:
            floating.port_id = floating.fixed_ip_address = floating.router_id = None
            floating.updated_at = now
    session.flush()


def _project(caller: Caller, network: Network, attributes: Mapping[str, Any]) -> str:
    """A port of openimds' own belongs to no project (`project_id` given as empty), a DHCP port to its network's."""
    if caller.is_admin and attributes.get("project_id") == "":
        return ""
    if caller.is_admin and attributes.get("device_owner") == DEVICE_OWNER_DHCP:
        return str(attributes.get("project_id") or network.project_id)
    return project_for(caller, dict(attributes))


def _mac_address(session: Session, network_id: str, wanted: str | None) -> str:
    if wanted:
        if _mac_taken(session, network_id, wanted):
            raise Conflict(
                f"Unable to complete operation for network {network_id}. The mac address {wanted} is in use.",
                kind="MacAddressInUse",
            )
        return wanted
    for _ in range(MAC_TRIES):
        candidate = f"{MAC_BASE}:{':'.join(f'{byte:02x}' for byte in secrets.token_bytes(3))}"
        if not _mac_taken(session, network_id, candidate):
            return candidate
    raise Conflict(f"Unable to generate a unique mac on network {network_id}.", kind="MacAddressGenerationFailure")


def _mac_taken(session: Session, network_id: str, mac_address: str) -> bool:
    taken = sa.select(Port.id).where(Port.network_id == network_id, Port.mac_address == mac_address)
    return session.scalar(taken) is not None


def _set_columns(port: Port, attributes: Mapping[str, Any]) -> None:
    for name, column in PLAIN_COLUMNS.items():
        value = attributes.get(name)
        if value is not None:
            setattr(port, column, value)
        elif name in attributes and column in ("host", "device_id", "device_owner"):
            setattr(port, column, "")
    if "allowed_address_pairs" in attributes:
        pairs = attributes["allowed_address_pairs"] or []
        port.allowed_address_pairs = [
            {"ip_address": pair["ip_address"], "mac_address": pair.get("mac_address") or port.mac_address}
            for pair in pairs
        ]


def _set_security_groups(
    session: Session, caller: Caller, port: Port, wanted: Sequence[str] | None, now: datetime
) -> None:
    if wanted is not None:
        for group_id in wanted:
            find(session, caller, SecurityGroup, group_id)
        port.security_group_ids = list(dict.fromkeys(wanted))
    elif port.port_security_enabled and not port.device_owner.startswith(NETWORK_OWNER_PREFIX) and port.project_id:
        port.security_group_ids = [security_groups.ensure_default(session, port.project_id, now).id]
    else:
        port.security_group_ids = []


def _merged_options(now: Sequence[Mapping[str, Any]], changes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """An update names the options that it sets or (value null) removes; the others stay."""
    merged = {(o["opt_name"], o["ip_version"]): dict(o) for o in now}
    for option in changes:
        key = (option["opt_name"], option["ip_version"])
        merged.pop(key, None)
        if option["opt_value"] is not None:
            merged[key] = dict(option)
    return list(merged.values())


def _change_addresses(
    session: Session, port: Port, network: Network, wanted: Sequence[dict[str, Any]] | None
) -> frozenset[str]:
    """Give the port these addresses instead; the ones that it lost."""
    before = {ip.ip_address for ip in port.fixed_ips}
    chosen = allocation.choose(session, port, network.subnets, wanted or [])
    if port.device_owner == DEVICE_OWNER_ROUTER_INTERFACE and not chosen:
        raise BadRequest("fixed_ips", "fixed_ips: a router's interface must have an address.", kind="BadRequest")
    allocation.assign(session, port, chosen)
    return frozenset(before - {ip.ip_address for ip in port.fixed_ips})


def _plugging(port: Port) -> tuple[str, str, str]:
    return port.host, port.device_id, port.device_owner


def _is_plugged_somewhere(port: Port) -> bool:
    return bool(port.host) or port.device_owner.startswith(NETWORK_OWNER_PREFIX)


def _entities(session: Session, port: Port) -> list[str]:
    """Who has to report before the port is ACTIVE: whoever plugs it, and for an instance the DHCP server."""
    if port.device_owner.startswith(DEVICE_OWNER_COMPUTE_PREFIX) and port.host:
        return ["l2", "dhcp"] if _has_dhcp(session, port) else ["l2"]
    if port.device_owner in (DEVICE_OWNER_DHCP, DEVICE_OWNER_ROUTER_INTERFACE, DEVICE_OWNER_ROUTER_GATEWAY):
        return ["l2"]
    return ["l2"] if port.host else []


def _has_dhcp(session: Session, port: Port) -> bool:
    subnet_ids = [ip.subnet_id for ip in port.fixed_ips]
    served = sa.select(Subnet.id).where(Subnet.id.in_(subnet_ids), Subnet.enable_dhcp)
    return session.scalar(served.limit(1)) is not None
