"""Routers: made, changed, removed; their external gateway and their extra routes."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from ipaddress import ip_address, ip_network
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from openimds.resources.caller import SYSTEM, Caller
from openimds.resources.errors import BadRequest, Conflict
from openimds.resources.network import DEVICE_OWNER_ROUTER_GATEWAY, DEVICE_OWNER_ROUTER_INTERFACE, Attachment
from openimds.store.models.network import FloatingIP, Network, Port, Router, Subnet
from openimds.store.network import ports
from openimds.store.network.access import get_owned, get_visible, project_for, require_admin

COLUMNS = ("name", "description", "admin_state_up", "tags")


def create(session: Session, caller: Caller, attributes: Mapping[str, Any], now: datetime) -> Router:
    """Raises NotFound (external network), BadRequest, Conflict, Forbidden."""
    router = Router(
        id=str(uuid.uuid4()), project_id=project_for(caller, dict(attributes)), created_at=now, updated_at=now
    )
    _set_columns(router, attributes)
    session.add(router)
    session.flush()
    if attributes.get("external_gateway_info"):
        set_gateway(session, caller, router, attributes["external_gateway_info"], now)
    _set_routes(session, caller, router, attributes.get("routes") or [])
    session.flush()
    return router


def update(session: Session, caller: Caller, router_id: str, attributes: Mapping[str, Any], now: datetime) -> Router:
    """Raises NotFound, BadRequest, Forbidden; Conflict when floating IPs or routes need the gateway that would go."""
    router = get_owned(session, caller, Router, router_id)
    _set_columns(router, attributes)
    if "external_gateway_info" in attributes:
        wanted = attributes["external_gateway_info"]
        if wanted and wanted.get("network_id"):
            set_gateway(session, caller, router, wanted, now)
            if "routes" not in attributes:
                refuse_diversion(caller, router.routes, connected_subnets(session, router.id))
        else:
            clear_gateway(session, router, now)
    if "routes" in attributes:
        _set_routes(session, caller, router, attributes["routes"] or [])
    if session.is_modified(router):
        router.updated_at = now
    session.flush()
    return router


def delete(session: Session, caller: Caller, router_id: str, now: datetime) -> None:
    """With its gateway. Raises NotFound; Conflict while subnets are attached or floating IPs pass through it."""
    router = get_owned(session, caller, Router, router_id)
    if interfaces(session, router.id):
        raise Conflict(f"Router {router.id} still has ports", kind="RouterInUse")
    router.routes = []
    clear_gateway(session, router, now)
    session.delete(router)
    session.flush()


def interfaces(session: Session, router_id: str) -> list[Port]:
    """Its ports on internal networks."""
    return [p for p in ports.ports_of_device(session, router_id) if p.attached_owner == DEVICE_OWNER_ROUTER_INTERFACE]


def gateway_port(session: Session, router_id: str) -> Port | None:
    """Its port on the external network."""
    legs = [p for p in ports.ports_of_device(session, router_id) if p.attached_owner == DEVICE_OWNER_ROUTER_GATEWAY]
    return legs[0] if legs else None


def set_gateway(session: Session, caller: Caller, router: Router, wanted: Mapping[str, Any], now: datetime) -> None:
    """`{"network_id": …, "enable_snat": true, "external_fixed_ips": [{"subnet_id": …, "ip_address": …}]}`"""
    network = get_visible(session, caller, Network, wanted["network_id"])
    if not network.external:
        raise BadRequest(
            "external_gateway_info",
            f"Bad router request: external_gateway_info: Network {network.id} is not an external network.",
            kind="BadRequest",
        )
    require_admin(caller, dict(wanted), *_operators_settings(router, wanted))
    port = gateway_port(session, router.id)
    if port is not None and port.network_id != network.id:
        clear_gateway(session, router, now)
        port = None
    _refuse_overlap_outside(session, router, network)
    if port is None:
        _make_gateway(session, router, network, wanted, now)
    elif wanted.get("external_fixed_ips") is not None:
        ports.update_port(session, SYSTEM, port.id, {"fixed_ips": wanted["external_fixed_ips"]}, now)
    router.external_network_id = network.id
    router.enable_snat = wanted.get("enable_snat", True if port is None else router.enable_snat)
    router.updated_at = now
    session.flush()


def clear_gateway(session: Session, router: Router, now: datetime) -> None:
    """Take the router off the external network. Nothing to do is success."""
    port = gateway_port(session, router.id)
    if port is None:
        return
    through = sa.select(FloatingIP.id).where(FloatingIP.router_id == router.id)
    if session.scalar(through.limit(1)) is not None:
        raise Conflict(
            f"Gateway cannot be updated for router {router.id}, since a gateway to external network {port.network_id} "
            "is required by one or more floating IPs.",
            kind="RouterExternalGatewayInUseByFloatingIp",
        )
    _refuse_needed_by_routes(session, router, port)
    ports.delete_port(session, port.id, now)
    router.external_network_id = None
    router.enable_snat = True
    session.flush()


def connected_subnets(session: Session, router_id: str) -> list[Subnet]:
    """The subnets that the router has an address in, outside included."""
    ids = {ip.subnet_id for port in ports.ports_of_device(session, router_id) for ip in port.fixed_ips}
    return list(session.scalars(sa.select(Subnet).where(Subnet.id.in_(ids))))


def change_routes(
    session: Session, caller: Caller, router_id: str, changes: Mapping[str, Sequence[Mapping[str, str]]], now: datetime
) -> Router:
    """`{"add": [route …], "remove": [route …]}`: add what is not there, remove what is."""
    router = get_owned(session, caller, Router, router_id)
    removed = [dict(route) for route in changes.get("remove", ())]
    kept = [route for route in router.routes if route not in removed]
    added = [dict(route) for route in changes.get("add", ()) if dict(route) not in kept]
    _set_routes(session, caller, router, [*kept, *added])
    router.updated_at = now
    session.flush()
    return router


def refuse_gone_nexthops(router: Router, gone: Sequence[str]) -> None:
    """`gone`: CIDRs that the router is about to leave. Raises Conflict when an extra route's next hop is in one."""
    for route in router.routes:
        for cidr in gone:
            if ip_address(route["nexthop"]) in ip_network(cidr):
                raise Conflict(
                    f"Router interface for subnet {cidr} on router {router.id} cannot be deleted, as it is required by "
                    f"one or more routes ({route['destination']} via {route['nexthop']}).",
                    kind="RouterInterfaceInUseByRoute",
                )


def refuse_diversion(caller: Caller, routes: Sequence[Mapping[str, str]], connected: Sequence[Subnet]) -> None:
    """Raises BadRequest when an extra route leads addresses of another project's connected subnet elsewhere. A shorter
    prefix does not: the subnet's own route wins.
    """
    foreign = [ip_network(subnet.cidr) for subnet in connected if not caller.owns(subnet.project_id)]
    for route in routes:
        target = ip_network(route["destination"])
        for net in foreign:
            if target.version == net.version and target.prefixlen >= net.prefixlen and target.overlaps(net):
                raise _invalid_route(route, "the destination belongs to a subnet of another project")


def _set_columns(router: Router, attributes: Mapping[str, Any]) -> None:
    for name in COLUMNS:
        if attributes.get(name) is not None:
            setattr(router, name, attributes[name])


def _operators_settings(router: Router, wanted: Mapping[str, Any]) -> list[str]:
    """What in the request is not so already and only an operator may choose."""
    names = []
    if wanted.get("external_fixed_ips"):
        names.append("external_fixed_ips")
    current = router.enable_snat if router.external_network_id else True
    if wanted.get("enable_snat", current) != current:
        names.append("enable_snat")
    return names


def _make_gateway(session: Session, router: Router, network: Network, wanted: Mapping[str, Any], now: datetime) -> None:
    if not network.subnets:
        raise BadRequest(
            "external_gateway_info",
            f"Bad router request: external_gateway_info: No IPs available for external network {network.id}: "
            "it has no subnet.",
            kind="BadRequest",
        )
    values = {
        "network_id": network.id,
        "project_id": "",  # as Neutron has it: the gateway's address is not the project's to use otherwise
        "device_id": router.id,
        "device_owner": DEVICE_OWNER_ROUTER_GATEWAY,
        "port_security_enabled": False,
    }
    if wanted.get("external_fixed_ips"):
        values["fixed_ips"] = wanted["external_fixed_ips"]
    ports.create_port(session, SYSTEM, values, now, Attachment(DEVICE_OWNER_ROUTER_GATEWAY, router.id))


def _refuse_overlap_outside(session: Session, router: Router, network: Network) -> None:
    inside = [s for s in connected_subnets(session, router.id) if s.network_id != network.id]
    for outer in network.subnets:
        refuse_overlap(router, outer, inside)


def refuse_overlap(router: Router, subnet: Subnet, others: Sequence[Subnet]) -> None:
    """Raises Conflict when the router could not tell which of two subnets an address is in."""
    net = ip_network(subnet.cidr)
    for other in others:
        if other.ip_version == subnet.ip_version and net.overlaps(ip_network(other.cidr)):
            raise Conflict(
                f"Bad router request: Cidr {subnet.cidr} of subnet {subnet.id} overlaps with cidr {other.cidr} of "
                f"subnet {other.id}, which router {router.id} is already attached to.",
                kind="RouterInterfaceOverlap",
            )


def _set_routes(session: Session, caller: Caller, router: Router, routes: Sequence[Mapping[str, str]]) -> None:
    if not routes:
        router.routes = []
        return
    connected = connected_subnets(session, router.id)
    nets = [ip_network(subnet.cidr) for subnet in connected]
    own = {ip.ip_address for port in ports.ports_of_device(session, router.id) for ip in port.fixed_ips}
    for route in routes:
        nexthop = ip_address(route["nexthop"])
        if nexthop.version != ip_network(route["destination"]).version:
            raise _invalid_route(route, "the nexthop and the destination are of different IP versions")
        if not any(nexthop in net for net in nets):
            raise _invalid_route(route, "the nexthop is not connected with router")
        if str(nexthop) in own:
            raise _invalid_route(route, "the nexthop is used by router")
    refuse_diversion(caller, routes, connected)
    router.routes = [{"destination": route["destination"], "nexthop": route["nexthop"]} for route in routes]


def _refuse_needed_by_routes(session: Session, router: Router, port: Port) -> None:
    subnets = [session.get_one(Subnet, ip.subnet_id) for ip in port.fixed_ips]
    refuse_gone_nexthops(router, [subnet.cidr for subnet in subnets])


def _invalid_route(route: Mapping[str, str], reason: str) -> BadRequest:
    return BadRequest(
        "routes",
        f"Invalid format for routes: {route['destination']} via {route['nexthop']}, {reason}.",
        kind="InvalidRoutes",
    )
