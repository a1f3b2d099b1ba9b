"""Floating IPs: create, associate with a port, disassociate, delete."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from openimds.resources.caller import SYSTEM, Caller
from openimds.resources.errors import BadRequest, Conflict, NotFound
from openimds.resources.network import DEVICE_OWNER_FLOATING_IP, DEVICE_OWNER_ROUTER_INTERFACE, Attachment
from openimds.store.models.network import FloatingIP, IPAllocation, Network, Port, Router, Subnet
from openimds.store.network import ports
from openimds.store.network.access import check_attributes, get_owned, get_visible, project_for


def create(session: Session, caller: Caller, attributes: Mapping[str, Any], now: datetime) -> FloatingIP:
    """Creates a floating IP. Raises NotFound (network, port, no router between them), BadRequest, Conflict, Forbidden."""
    network = get_visible(session, caller, Network, attributes["floating_network_id"])
    if not network.external:
        raise _bad("floating_network_id", f"Network {network.id} is not a valid external network")
    project_id = project_for(caller, attributes, "create_floatingip")
    chosen = [name for name in ("floating_ip_address",) if attributes.get(name)]
    check_attributes(caller, "create_floatingip", chosen, project_id)
    row_id = str(uuid.uuid4())
    attachment = Attachment(DEVICE_OWNER_FLOATING_IP, row_id)
    outer = ports.create_port(session, SYSTEM, _outer_port(network, attributes), now, attachment)
    address = next((ip.ip_address for ip in outer.fixed_ips if ":" not in ip.ip_address), None)
    if address is None:
        raise _bad("floating_network_id", f"External network {network.id} does not contain any IPv4 subnet")
    floating = FloatingIP(
        id=row_id,
        project_id=project_id,
        description=attributes.get("description") or "",
        floating_network_id=network.id,
        floating_ip_address=address,
        floating_port_id=outer.id,
        tags=list(attributes.get("tags") or ()),
        created_at=now,
        updated_at=now,
    )
    session.add(floating)
    session.flush()
    if attributes.get("port_id"):
        _associate(session, caller, floating, attributes)
    elif attributes.get("fixed_ip_address"):
        raise _bad("fixed_ip_address", "fixed_ip_address needs port_id")
    session.flush()
    return floating


def update(
    session: Session, caller: Caller, floating_ip_id: str, attributes: Mapping[str, Any], now: datetime
) -> FloatingIP:
    """Associates the floating IP with `port_id`, or disassociates it if that is null. Raises the errors of `create`."""
    floating = get_owned(session, caller, FloatingIP, floating_ip_id, "update_floatingip")
    if attributes.get("description") is not None:
        floating.description = attributes["description"]
    if attributes.get("port_id"):
        _associate(session, caller, floating, attributes)
    elif attributes.get("fixed_ip_address") and floating.port_id:
        _associate(session, caller, floating, {**attributes, "port_id": floating.port_id})
    elif "port_id" in attributes:
        floating.port_id = floating.fixed_ip_address = floating.router_id = None
    if session.is_modified(floating):
        floating.updated_at = now
    session.flush()
    return floating


def delete(session: Session, caller: Caller, floating_ip_id: str, now: datetime) -> None:
    """Deletes a floating IP and the port of its address. Raises NotFound."""
    floating = get_owned(session, caller, FloatingIP, floating_ip_id, "delete_floatingip")
    outer_id = floating.floating_port_id
    session.delete(floating)
    session.flush()
    ports.delete_port(session, outer_id, now)


def _outer_port(network: Network, attributes: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {
        "network_id": network.id,
        "project_id": "",
        "port_security_enabled": False,
    }
    if attributes.get("floating_ip_address"):
        values["fixed_ips"] = [{"ip_address": attributes["floating_ip_address"]}]
    elif attributes.get("subnet_id"):
        values["fixed_ips"] = [{"subnet_id": attributes["subnet_id"]}]
    return values


def _associate(session: Session, caller: Caller, floating: FloatingIP, attributes: Mapping[str, Any]) -> None:
    port = get_visible(session, caller, Port, attributes["port_id"])
    if port.project_id != floating.project_id and not caller.is_admin:
        raise _bad(
            "port_id",
            f"Cannot associate floating IP {floating.floating_ip_address} with port {port.id}: "
            "it belongs to another project",
        )
    fixed = _inner_address(port, attributes.get("fixed_ip_address"))
    _refuse_second(session, floating, port, fixed.ip_address)
    floating.router_id = _router_between(session, floating, fixed)
    floating.port_id = port.id
    floating.fixed_ip_address = fixed.ip_address


def _inner_address(port: Port, requested: str | None) -> IPAllocation:
    candidates = [ip for ip in port.fixed_ips if ":" not in ip.ip_address]
    if requested:
        for ip in candidates:
            if ip.ip_address == requested:
                return ip
        raise _bad("fixed_ip_address", f"Port {port.id} does not have fixed ip {requested}")
    if not candidates:
        raise _bad("port_id", f"Cannot add floating IP to port {port.id} that has no fixed IPv4 addresses")
    if len(candidates) > 1:
        raise _bad(
            "fixed_ip_address",
            f"Port {port.id} has multiple fixed IPv4 addresses. Must provide a specific IPv4 address when assigning a "
            "floating IP",
        )
    return candidates[0]


def _refuse_second(session: Session, floating: FloatingIP, port: Port, address: str) -> None:
    other = session.scalar(
        sa.select(FloatingIP).where(
            FloatingIP.id != floating.id,
            FloatingIP.port_id == port.id,
            FloatingIP.fixed_ip_address == address,
            FloatingIP.floating_network_id == floating.floating_network_id,
        )
    )
    if other is not None:
        raise Conflict(
            f"Cannot associate floating IP {floating.floating_ip_address} ({floating.id}) with port {port.id} using "
            f"fixed IP {address}, as that fixed IP already has a floating IP on external network "
            f"{floating.floating_network_id}.",
            kind="FloatingIPPortAlreadyAssociated",
        )


def _router_between(session: Session, floating: FloatingIP, fixed: IPAllocation) -> str:
    """The id of the router between the subnet of the fixed IP and the network of the floating IP.

    The router with the subnet's gateway address is preferred. Otherwise only routers of the port's project count, because
    another project may have attached its router to a shared network.
    """
    interfaces = session.execute(
        sa.select(Router.id, Router.project_id, IPAllocation.ip_address)
        .join(Port, Port.attached_id == Router.id)
        .join(IPAllocation, IPAllocation.port_id == Port.id)
        .where(
            Port.attached_owner == DEVICE_OWNER_ROUTER_INTERFACE,
            IPAllocation.subnet_id == fixed.subnet_id,
            Router.external_network_id == floating.floating_network_id,
        )
        .order_by(Router.created_at)
    ).all()
    gateway = session.get_one(Subnet, fixed.subnet_id).gateway_ip
    project_id = session.get_one(Port, fixed.port_id).project_id
    fitting = [interface for interface in interfaces if interface.ip_address == gateway] or [
        interface for interface in interfaces if interface.project_id == project_id
    ]
    if not fitting:
        raise NotFound(
            f"External network {floating.floating_network_id} is not reachable from subnet {fixed.subnet_id}. "
            f"Therefore, cannot associate Port {fixed.port_id} with a Floating IP.",
            kind="ExternalGatewayForFloatingIPNotFound",
        )
    return str(fitting[0].id)


def _bad(field: str, reason: str) -> BadRequest:
    return BadRequest(field, f"Bad floatingip request: {field}: {reason}.", kind="BadRequest")
