"""A router's legs on internal networks: added and removed, by subnet or by port."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from ipaddress import ip_address, ip_network
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from openimds.resources.caller import SYSTEM, Caller
from openimds.resources.errors import BadRequest, Conflict, NotFound
from openimds.resources.network import DEVICE_OWNER_ROUTER_INTERFACE, Attachment
from openimds.store.models.network import FloatingIP, Network, Port, Router, Subnet
from openimds.store.network import ports, routers
from openimds.store.network.access import get_owned, get_owned_strictly, get_visible


def add(session: Session, caller: Caller, router_id: str, which: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """`which`: `{"subnet_id": …}` or `{"port_id": …}`; the answer of Neutron's add_router_interface.

    Raises NotFound, BadRequest, and Conflict when the subnet overlaps one that the router has.
    """
    router = get_owned(session, caller, Router, router_id)
    if which.get("port_id") and which.get("subnet_id"):
        raise _bad("port_id", "Cannot specify both subnet-id and port-id")
    if which.get("port_id"):
        port = _attach_port(session, caller, router, which["port_id"])
    elif which.get("subnet_id"):
        port = _attach_subnet(session, caller, router, which["subnet_id"], now)
    else:
        raise _bad("subnet_id", "Either subnet_id or port_id must be specified")
    router.updated_at = now
    session.flush()
    return _described(router, port, which.get("subnet_id"))


def remove(session: Session, caller: Caller, router_id: str, which: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """The reverse of `add`. Raises NotFound; Conflict while a floating IP or an extra route needs the leg."""
    router = get_owned(session, caller, Router, router_id)
    if not which.get("port_id") and not which.get("subnet_id"):
        raise _bad("subnet_id", "Either subnet_id or port_id must be specified")
    port = _leg(session, router, which)
    subnets = [session.get_one(Subnet, ip.subnet_id) for ip in port.fixed_ips]
    routers.refuse_gone_nexthops(router, [subnet.cidr for subnet in subnets])
    for subnet in subnets:
        _refuse_needed_by_floating_ip(session, router, subnet)
    answer = _described(router, port, which.get("subnet_id"))
    ports.delete_port(session, port.id, now)
    router.updated_at = now
    session.flush()
    return answer


def _attach_subnet(session: Session, caller: Caller, router: Router, subnet_id: str, now: datetime) -> Port:
    subnet = get_visible(session, caller, Subnet, subnet_id)
    get_owned(session, caller, Network, subnet.network_id)
    if not subnet.gateway_ip:
        raise _bad("subnet_id", f"Subnet for router interface must have a gateway IP: {subnet.id} has none")
    routers.refuse_overlap(router, subnet, routers.connected_subnets(session, router.id))
    values = {
        "network_id": subnet.network_id,
        "project_id": router.project_id,
        "fixed_ips": [{"subnet_id": subnet.id, "ip_address": subnet.gateway_ip}],
        "device_id": router.id,
        "device_owner": DEVICE_OWNER_ROUTER_INTERFACE,
        "port_security_enabled": False,
    }
    return ports.create_port(session, SYSTEM, values, now, _attachment(router))


def _attach_port(session: Session, caller: Caller, router: Router, port_id: str) -> Port:
    port = get_owned_strictly(session, caller, Port, port_id)
    device_id = port.attached_id or port.device_id
    if device_id:
        raise Conflict(
            f"Unable to complete operation on port {port.id} for network {port.network_id}. Port already has an "
            f"attached device {device_id}.",
            kind="PortInUse",
        )
    if not port.fixed_ips:
        raise _bad("port_id", f"Router port must have at least one fixed IP: port {port.id} has none")
    subnets = [session.get_one(Subnet, ip.subnet_id) for ip in port.fixed_ips]
    if sum(subnet.ip_version == 4 for subnet in subnets) > 1:
        raise _bad("port_id", f"Cannot have multiple IPv4 subnets on router port {port.id}")
    connected = routers.connected_subnets(session, router.id)
    for subnet in subnets:
        routers.refuse_overlap(router, subnet, connected)
    routers.refuse_diversion(caller, router.routes, subnets)
    port.security_group_ids = []
    port.allowed_address_pairs = []
    port.port_security_enabled = False
    ports.attach_port(session, port, _attachment(router), host=port.host)
    return port


def _attachment(router: Router) -> Attachment:
    return Attachment(DEVICE_OWNER_ROUTER_INTERFACE, router.id)


def _leg(session: Session, router: Router, which: Mapping[str, Any]) -> Port:
    for port in routers.interfaces(session, router.id):
        on = {ip.subnet_id for ip in port.fixed_ips}
        if which.get("port_id") in (None, port.id) and which.get("subnet_id", None) in {None, *on}:
            return port
    if which.get("port_id"):
        raise NotFound(
            f"Router {router.id} does not have an interface with id {which['port_id']}", kind="RouterInterfaceNotFound"
        )
    raise NotFound(
        f"Router {router.id} has no interface on subnet {which['subnet_id']}",
        kind="RouterInterfaceNotFoundForSubnet",
    )


def _refuse_needed_by_floating_ip(session: Session, router: Router, subnet: Subnet) -> None:
    for floating in session.scalars(sa.select(FloatingIP).where(FloatingIP.router_id == router.id)):
        if floating.fixed_ip_address and ip_address(floating.fixed_ip_address) in ip_network(subnet.cidr):
            raise Conflict(
                f"Router interface for subnet {subnet.id} on router {router.id} cannot be deleted, as it is required "
                f"by one or more floating IPs ({floating.floating_ip_address}).",
                kind="RouterInterfaceInUseByFloatingIP",
            )


def _described(router: Router, port: Port, subnet_id: str | None) -> dict[str, Any]:
    subnet_ids = [ip.subnet_id for ip in port.fixed_ips]
    return {
        "id": router.id,
        "project_id": router.project_id,
        "tenant_id": router.project_id,
        "port_id": port.id,
        "network_id": port.network_id,
        "subnet_id": subnet_id or subnet_ids[0],
        "subnet_ids": subnet_ids,
        "tags": router.tags,
    }


def _bad(field: str, reason: str) -> BadRequest:
    return BadRequest(field, f"Bad router request: {field}: {reason}.", kind="BadRequest")
