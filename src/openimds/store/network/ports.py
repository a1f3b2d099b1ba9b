"""Ports: create, change, attach, delete. Functions run in a session of `Store.write()`.

`attributes` have Neutron's names and valid forms: `network_id`, `fixed_ips`, `mac_address`, `device_id`,
`binding:host_id` … control_api/network/attributes.py checks those of requests.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, selectinload

from openimds.resources.caller import Caller
from openimds.resources.errors import BadRequest, Conflict
from openimds.resources.network import (
    DEVICE_OWNER_COMPUTE_PREFIX,
    DEVICE_OWNER_DHCP,
    DEVICE_OWNER_FLOATING_IP,
    DEVICE_OWNER_ROUTER_GATEWAY,
    DEVICE_OWNER_ROUTER_INTERFACE,
    NETWORK_OWNER_PREFIX,
    UNATTACHED,
    Attachment,
)
from openimds.store.models.compute import Server
from openimds.store.models.network import FloatingIP, Network, Port, SecurityGroup, Subnet
from openimds.store.network import ipam, port_policy, security_groups
from openimds.store.network.access import get_owned, get_visible_once, project_for

MAC_BASE = "fa:16:3e"
"""Neutron's default `base_mac`. The other bytes are random."""

MAC_TRIES = 16

OWNED_BY_ROUTERS = frozenset({DEVICE_OWNER_ROUTER_INTERFACE, DEVICE_OWNER_ROUTER_GATEWAY, DEVICE_OWNER_FLOATING_IP})
"""Ports that are created and deleted with a router or a floating IP."""

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
"""Columns by attribute, for values that are stored unchanged."""


def create_port(
    session: Session,
    caller: Caller,
    attributes: Mapping[str, Any],
    now: datetime,
    attachment: Attachment = UNATTACHED,
    *,
    host: str = "",
) -> Port:
    """Creates a port with its addresses, its MAC and, by default, the default security group of its project.

    `attachment` is the device to which the calling function attaches the port, such as a router of this store, and `host`
    is the host of the device. Without it, only administrators and services can attach the port, by its attributes (`_set_by_operator`).

    Raises NotFound (network), BadRequest (fixed_ips, dns_name …), Conflict (address, MAC or name in use, pools exhausted,
    device_id of another project), Forbidden (attributes of the network's owner or of an administrator).
    """
    network = get_visible_once(session, caller, Network, attributes["network_id"])
    project_id = _project(caller, network, attributes)
    port_policy.check_create(caller, network, project_id, attributes)
    port_policy.check_device(session, caller, project_id, attributes)
    port = Port(
        id=attributes.get("id") or str(uuid.uuid4()),
        network_id=network.id,
        project_id=project_id,
        mac_address=_mac_address(session, network.id, attributes.get("mac_address")),
        port_security_enabled=network.port_security_enabled,
        device_id=attachment.device_id,
        device_owner=attachment.device_owner,
        host=host,
        status="DOWN",
        attached_owner="",
        attached_id="",
        binding_generation=1,
        extra_dhcp_opts=_merged_options([], attributes.get("extra_dhcp_opts") or []),
        fixed_ips=[],
        created_at=now,
        updated_at=now,
    )
    _set_columns(port, attributes)
    _record(port, attachment if attachment.device_owner else _set_by_operator(session, caller, port))
    _set_security_groups(session, caller, port, attributes.get("security_groups"), now)
    port_policy.check_consistent(port)
    chosen = ipam.choose(session, port, network.subnets, attributes.get("fixed_ips"))
    session.add(port)
    ipam.assign(session, port, chosen)
    port_policy.check_dns_name(session, port)
    if entities := _entities(session, port):
        port.provisioning = entities
    return port


def update_port(session: Session, caller: Caller, port_id: str, attributes: Mapping[str, Any], now: datetime) -> Port:
    """Changes the given attributes. Raises the errors of `create_port`."""
    port = get_owned(session, caller, Port, port_id, "update_port")
    network = session.get_one(Network, port.network_id)
    port_policy.check_update(caller, network, port, attributes)
    port_policy.check_device(session, caller, port.project_id, attributes)
    binding, addressing, device = _binding(port), _addressing(port), (port.device_owner, port.device_id)
    dns_name = port.dns_name
    _set_columns(port, attributes)
    if caller.is_admin and (port.device_owner, port.device_id) != device:
        _record(port, _set_by_operator(session, caller, port))
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
        port_policy.check_dns_name_of_address(port)
    if port.dns_name != dns_name:
        port_policy.check_dns_name(session, port)
    if _binding(port) != binding or (port.provisioning and _addressing(port) != addressing):
        restart_provisioning(session, port)
    if session.is_modified(port):
        port.updated_at = now
    session.flush()
    return port


def delete_port(session: Session, port_id: str, now: datetime) -> None:
    """Deletes a port, its addresses, and its place among its server's NICs. Floating IPs that lead to it become free.
    A missing port is not an error.
    """
    port = session.get(Port, port_id)
    if port is None:
        return
    free_floating_ips(session, port.id, now)
    server = session.get(Server, port.attached_id) if port.attached_id else None
    session.delete(port)
    session.flush()
    ipam.forget_full_pools(session)
    if server is not None:
        remove_nic(session, server, port_id)


def delete_own_port(session: Session, caller: Caller, port_id: str, now: datetime) -> None:
    """Deletes a port for a request. Raises NotFound, and Conflict for a port of a router or a floating IP."""
    port = get_owned(session, caller, Port, port_id, "delete_port")
    if port.attached_owner in OWNED_BY_ROUTERS:
        raise Conflict(
            f"Port {port.id} cannot be deleted directly via the port API: it has device owner {port.attached_owner}.",
            kind="ServicePortInUse",
        )
    delete_port(session, port.id, now)


def attach_port(session: Session, port: Port, attachment: Attachment, *, host: str) -> None:
    """Attaches the port to a device on a host. It becomes ACTIVE when all entities of `provisioning` have reported."""
    port.host, port.device_id, port.device_owner = host, attachment.device_id, attachment.device_owner
    _record(port, attachment)
    restart_provisioning(session, port)


def detach_port(session: Session, port: Port) -> None:
    """Detaches the port from its device. It keeps its addresses."""
    attach_port(session, port, UNATTACHED, host="")


def remove_nic(session: Session, server: Server, port_id: str) -> None:
    """Removes a port from the server's list of NICs. A boot of the server waits until all NICs of the list are ready."""
    server.nic_order = [other for other in server.nic_order if other != port_id]
    server.nic_tags = {other: tag for other, tag in server.nic_tags.items() if other != port_id}
    server.ports_of_server = [other for other in server.ports_of_server if other != port_id]
    session.flush()
    server.devices = tagged_devices(session, server)


def tagged_devices(session: Session, server: Server) -> list[dict[str, Any]]:
    """The server's tagged NICs, as `devices` of meta_data.json. As in Nova, `bus` is `none` if it is unknown."""
    tagged = [(session.get(Port, port_id), server.nic_tags.get(port_id)) for port_id in server.nic_order]
    return [
        {"type": "nic", "bus": "none", "address": "none", "mac": port.mac_address, "tags": [tag]}
        for port, tag in tagged
        if port is not None and tag
    ]


def ports_of_device(session: Session, device_id: str) -> Sequence[Port]:
    """All ports that are attached to a server or a router, oldest first."""
    rows = sa.select(Port).where(Port.attached_id == device_id).options(selectinload(Port.fixed_ips))
    return session.scalars(rows.order_by(Port.created_at, Port.id)).all()


def provisioned(session: Session, port_id: str, entity: str, binding_generation: int | None = None) -> None:
    """Removes one provisioning block (`dhcp`, `l2`). The port is ACTIVE when none is left and its `admin_state_up` is
    true. Idempotent.

    A report about an earlier binding has no effect. Agents of release 0.1 send no generation.
    """
    port = session.get(Port, port_id)
    if port is None or not _is_current(port, binding_generation):
        return
    port.provisioning = [missing for missing in port.provisioning if missing != entity]
    if not port.provisioning and port.admin_state_up and _is_bound(port):
        port.status = "ACTIVE"


def unplugged(session: Session, port_id: str, binding_generation: int | None = None) -> None:
    """Sets the port DOWN until `l2` is reported again, because its device has disappeared. Generations count as in
    `provisioned`.
    """
    port = session.get(Port, port_id)
    if port is not None and _is_current(port, binding_generation):
        port.status = "DOWN"
        port.provisioning = [*(e for e in port.provisioning if e != "l2"), "l2"] if _is_bound(port) else []
        port.binding_generation += 1


def restart_provisioning(session: Session, port: Port) -> None:
    """Sets the port DOWN until all entities report again. Reports about the earlier binding have no effect."""
    port.status = "DOWN"
    port.provisioning = _entities(session, port)
    port.binding_generation += 1


def free_floating_ips(session: Session, port_id: str, now: datetime, gone: frozenset[str] | None = None) -> None:
    """Disassociates floating IPs from the port. `gone` limits that to the floating IPs of these addresses."""
    for floating in session.scalars(sa.select(FloatingIP).where(FloatingIP.port_id == port_id)):
        if gone is None or floating.fixed_ip_address in gone:
            floating.port_id = floating.fixed_ip_address = floating.router_id = None
            floating.updated_at = now
    session.flush()


def _project(caller: Caller, network: Network, attributes: Mapping[str, Any]) -> str:
    """The project of a new port. An internal port has none (an empty `project_id`), a DHCP port has its network's."""
    if caller.is_admin and attributes.get("project_id") == "":
        return ""
    if caller.is_admin and attributes.get("device_owner") == DEVICE_OWNER_DHCP:
        return str(attributes.get("project_id") or network.project_id)
    return project_for(caller, attributes, "create_port")


def _mac_address(session: Session, network_id: str, requested: str | None) -> str:
    if requested:
        if _mac_taken(session, network_id, requested):
            raise Conflict(
                f"Unable to complete operation for network {network_id}. The mac address {requested} is in use.",
                kind="MacAddressInUse",
            )
        return requested
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
    session: Session, caller: Caller, port: Port, requested: Sequence[str] | None, now: datetime
) -> None:
    if requested is not None:
        for group_id in requested:
            get_visible_once(session, caller, SecurityGroup, group_id)
        port.security_group_ids = list(dict.fromkeys(requested))
    elif port.port_security_enabled and not port.attached_owner.startswith(NETWORK_OWNER_PREFIX) and port.project_id:
        port.security_group_ids = [security_groups.ensure_default(session, port.project_id, now).id]
    else:
        port.security_group_ids = []


def _merged_options(now: Sequence[Mapping[str, Any]], changes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The DHCP options of a port after a request, whose options replace those of the same name and IP version.

    An option with a null value is removed. When a port is created, such an option has no effect, as in Neutron.
    """
    merged = {(o["opt_name"], o["ip_version"]): dict(o) for o in now}
    for option in changes:
        key = (option["opt_name"], option["ip_version"])
        merged.pop(key, None)
        if option["opt_value"] is not None:
            merged[key] = dict(option)
    return list(merged.values())


def _change_addresses(
    session: Session, port: Port, network: Network, requested: Sequence[dict[str, Any]] | None
) -> frozenset[str]:
    """Replaces the addresses of the port. Returns the removed ones."""
    before = {ip.ip_address for ip in port.fixed_ips}
    chosen = ipam.choose(session, port, network.subnets, requested or [])
    if port.attached_owner == DEVICE_OWNER_ROUTER_INTERFACE and not chosen:
        raise BadRequest("fixed_ips", "fixed_ips: a router's interface must have an address.", kind="BadRequest")
    ipam.assign(session, port, chosen)
    return frozenset(before - {ip.ip_address for ip in port.fixed_ips})


def _record(port: Port, attachment: Attachment) -> None:
    port.attached_owner, port.attached_id = attachment.device_owner, attachment.device_id


def _set_by_operator(session: Session, caller: Caller, port: Port) -> Attachment:
    """The attachment by `device_owner` and `device_id` alone. Only administrators and services can make one.

    Such a port is a DHCP agent's, or belongs to an instance of another compute service. A port of a server or router of
    this store is attached by a request for the server or router instead.
    """
    attachment = Attachment(port.device_owner, port.device_id)
    if caller.is_admin and port.device_owner == DEVICE_OWNER_DHCP:
        return attachment
    if caller.is_admin and port.device_id and port.device_owner.startswith(DEVICE_OWNER_COMPUTE_PREFIX):
        server = session.get(Server, port.device_id)
        if server is None or (server.imported_document and server.project_id == port.project_id):
            return attachment
    return UNATTACHED


def _binding(port: Port) -> tuple[str, str, str, bool]:
    return port.host, port.attached_owner, port.attached_id, port.admin_state_up


def _addressing(port: Port) -> tuple[str, frozenset[str]]:
    return port.mac_address, frozenset(ip.ip_address for ip in port.fixed_ips)


def _is_current(port: Port, binding_generation: int | None) -> bool:
    return binding_generation in {None, port.binding_generation}


def _is_bound(port: Port) -> bool:
    return bool(port.host) or port.attached_owner.startswith(NETWORK_OWNER_PREFIX)


def _entities(session: Session, port: Port) -> list[str]:
    """The entities that must report: the agent that plugs the port, and the DHCP agent unless it is a service port."""
    if port.attached_owner in (DEVICE_OWNER_DHCP, DEVICE_OWNER_ROUTER_INTERFACE, DEVICE_OWNER_ROUTER_GATEWAY):
        return ["l2"]
    if not port.host:
        return []
    return ["l2", "dhcp"] if _has_dhcp(session, port) else ["l2"]


def _has_dhcp(session: Session, port: Port) -> bool:
    subnet_ids = [ip.subnet_id for ip in port.fixed_ips]
    served = sa.select(Subnet.id).where(Subnet.id.in_(subnet_ids), Subnet.enable_dhcp)
    return session.scalar(served.limit(1)) is not None
