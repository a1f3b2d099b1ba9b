"""The NICs of servers: attaching and detaching ports.

A port that was created for a server is deleted with the server. A port of the request is detached and keeps its addresses.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from openimds.resources.caller import Caller
from openimds.resources.compute import Interface, NicRequest
from openimds.resources.errors import BadRequest, Conflict, Forbidden, NotFound
from openimds.resources.network import DEVICE_OWNER_COMPUTE_PREFIX, Attachment
from openimds.store.models.compute import Server
from openimds.store.models.network import Network, Port, SecurityGroup
from openimds.store.network import port_policy
from openimds.store.network.access import get_visible
from openimds.store.network.ports import (
    attach_port,
    create_port,
    delete_port,
    detach_port,
    ports_of_device,
    remove_nic,
    tagged_devices,
)
from openimds.store.network.security_groups import ensure_default


def resolve_nics(
    session: Session, caller: Caller, requested: tuple[NicRequest, ...] | None, *, project_id: str, optional: bool
) -> list[NicRequest]:
    """Checks the ports and networks of the requested NICs. None as `requested` selects the only network that the project
    can use. `project_id` is the server's.

    Raises BadRequest for a network or port that does not exist and for a port of another project, Conflict for a port in
    use or for several networks to choose from, Forbidden for an external network of another project.
    """
    if requested is None:
        return _only_network(session, caller, optional=optional)
    for nic in requested:
        if nic.port_id:
            _check_port(session, caller, nic, project_id)
        elif nic.network_id:
            _check_network(session, caller, nic.network_id)
    return list(requested)


def plug(session: Session, caller: Caller, server: Server, nics: Sequence[NicRequest], now: datetime) -> list[Port]:
    """Adds NICs to a server that has a host. Raises Conflict, for example if the pools of a subnet are exhausted."""
    ports = [_plug_one(session, caller, server, nic, now) for nic in nics]
    server.nic_order = [*server.nic_order, *(port.id for port in ports)]
    tags = {port.id: nic.tag for port, nic in zip(ports, nics, strict=True) if nic.tag}
    if tags:
        server.nic_tags = {**server.nic_tags, **tags}
    made = [port.id for port, nic in zip(ports, nics, strict=True) if not nic.port_id]
    if made:
        server.ports_of_server = [*server.ports_of_server, *made]
    session.flush()
    server.devices = tagged_devices(session, server)
    return ports


def unplug_one(session: Session, server: Server, port_id: str, now: datetime) -> None:
    """Removes one NIC. Raises NotFound if the server does not have it."""
    port = session.get(Port, port_id)
    if port is None or port.attached_id != server.id:
        raise NotFound(f"Interface {port_id} of instance {server.id} could not be found.")
    _release(session, server, port, now)
    remove_nic(session, server, port_id)


def unplug_all(session: Session, server: Server, now: datetime) -> None:
    """Removes all NICs of a server that is about to be deleted."""
    for port in ports_of_device(session, server.id):
        _release(session, server, port, now)


def interfaces(session: Session, server: Server) -> list[Interface]:
    """The NICs in their order."""
    ports = {port.id: port for port in ports_of_device(session, server.id)}
    ordered = [ports[port_id] for port_id in server.nic_order if port_id in ports]
    return [interface_value(port, server.nic_tags.get(port.id)) for port in ordered]


def interface_value(port: Port, tag: str | None) -> Interface:
    return Interface(
        port_id=port.id,
        network_id=port.network_id,
        mac_address=port.mac_address,
        status=port.status,
        fixed_ips=tuple({"subnet_id": ip.subnet_id, "ip_address": ip.ip_address} for ip in port.fixed_ips),
        tag=tag,
    )


def resolve_security_groups(
    session: Session, caller: Caller, names: Sequence[str], now: datetime
) -> list[SecurityGroup]:
    """The project's security groups with these names or ids. Creates a missing `default`. Raises BadRequest, Conflict."""
    return [_security_group(session, caller, name, now) for name in names]


def _only_network(session: Session, caller: Caller, *, optional: bool) -> list[NicRequest]:
    """The only network among the project's own and the shared ones, as in Nova. Raises Conflict, BadRequest."""
    usable = sa.select(Network).where(
        sa.or_(Network.project_id == caller.project_id, Network.shared), ~Network.external
    )
    found = session.scalars(usable).all()
    if len(found) > 1:
        raise Conflict("Multiple possible networks found, use a Network ID to be more specific.")
    if not found and not optional:
        raise BadRequest("networks", "Unable to automatically allocate a network: the project has none; name one.")
    return [NicRequest(network_id=network.id) for network in found if network.subnets]


def _check_port(session: Session, caller: Caller, nic: NicRequest, project_id: str) -> None:
    assert nic.port_id is not None
    try:
        port = get_visible(session, caller, Port, nic.port_id)
    except NotFound as error:
        raise BadRequest("networks", f"networks: {error.message}") from error
    if port.project_id != project_id:
        raise BadRequest("networks", f"networks: Port {port.id} not usable: it belongs to another project.")
    _refuse_in_use(port)
    if nic.fixed_ip:
        raise BadRequest("networks", "Specified fixed_ip together with a port; the port has its addresses already.")


def _check_network(session: Session, caller: Caller, network_id: str) -> None:
    try:
        network = get_visible(session, caller, Network, network_id)
    except NotFound as error:
        raise BadRequest("networks", f"networks: {error.message}") from error
    restricted = network.external and not network.shared
    if restricted and not caller.may("network:attach_external_network", network.project_id):
        raise Forbidden(f"It is not allowed to create an interface on external network {network_id}.")
    if not network.subnets:
        raise BadRequest("networks", f"networks: Network {network_id} requires a subnet in order to boot instances on.")


def _plug_one(session: Session, caller: Caller, server: Server, nic: NicRequest, now: datetime) -> Port:
    attachment = Attachment(f"{DEVICE_OWNER_COMPUTE_PREFIX}{server.availability_zone or ''}", server.id)
    if nic.port_id:
        port = session.get_one(Port, nic.port_id)
        _refuse_in_use(port)
        attach_port(session, port, attachment, host=server.host)
    else:
        port = _new_port(session, caller, server, nic, attachment, now)
    if not port.dns_name and port_policy.is_usable_dns_name(session, port, server.hostname):
        port.dns_name = server.hostname
    port.updated_at = now
    return port


def _refuse_in_use(port: Port) -> None:
    device_id = port.attached_id or port.device_id
    if device_id:
        raise Conflict(f"Port {port.id} is still in use: it belongs to the device {device_id}.")


def _new_port(
    session: Session, caller: Caller, server: Server, nic: NicRequest, attachment: Attachment, now: datetime
) -> Port:
    attributes: dict[str, Any] = {
        "network_id": nic.network_id,
        "project_id": server.project_id,
    }
    network = session.get_one(Network, nic.network_id)
    if network.port_security_enabled:
        attributes["security_groups"] = [group["id"] for group in server.security_groups]
    if nic.fixed_ip:
        attributes["fixed_ips"] = [{"ip_address": nic.fixed_ip}]
    return create_port(session, caller, attributes, now, attachment, host=server.host)


def _release(session: Session, server: Server, port: Port, now: datetime) -> None:
    if port.id in server.ports_of_server:
        delete_port(session, port.id, now)
        return
    detach_port(session, port)
    if port.dns_name == server.hostname:
        port.dns_name = ""
    port.updated_at = now


def _security_group(session: Session, caller: Caller, name: str, now: datetime) -> SecurityGroup:
    if name == "default":
        return ensure_default(session, caller.project_id, now)
    mine = SecurityGroup.project_id == caller.project_id
    by_id = session.scalar(sa.select(SecurityGroup).where(SecurityGroup.id == name, mine))
    if by_id is not None:
        return by_id
    named = session.scalars(sa.select(SecurityGroup).where(SecurityGroup.name == name, mine)).all()
    if len(named) > 1:
        raise Conflict(f"Multiple security_groups found matching '{name}'. Use an ID to be more specific.")
    if not named:
        raise BadRequest("security_groups", f"security_groups: Security group {name} not found for the project.")
    return named[0]
