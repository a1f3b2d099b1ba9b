"""Routers: create, change, delete; the external gateway, extra routes, and interfaces on internal networks."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from ipaddress import ip_address, ip_network
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from openimds.resources.caller import SYSTEM, Caller
from openimds.resources.errors import BadRequest, Conflict, NotFound
from openimds.resources.network import DEVICE_OWNER_ROUTER_GATEWAY, DEVICE_OWNER_ROUTER_INTERFACE, Attachment
from openimds.store.models.network import FloatingIP, Network, Port, Router, Subnet
from openimds.store.network import ip_math, ports
from openimds.store.network.access import check_attributes, get_owned, get_visible, project_for

COLUMNS = ("name", "description", "admin_state_up", "tags")


def create_router(session: Session, caller: Caller, attributes: Mapping[str, Any], now: datetime) -> Router:
    """Creates a router. Raises NotFound (external network), BadRequest, Conflict, Forbidden."""
    router = Router(
        id=str(uuid.uuid4()),
        project_id=project_for(caller, attributes, "create_router"),
        created_at=now,
        updated_at=now,
    )
    _set_columns(router, attributes)
    session.add(router)
    session.flush()
    if attributes.get("external_gateway_info"):
        _check_gateway(caller, "create_router", router, attributes["external_gateway_info"])
        set_gateway(session, caller, router, attributes["external_gateway_info"], now)
    _set_routes(session, caller, router, attributes.get("routes") or [])
    session.flush()
    return router


def update_router(
    session: Session, caller: Caller, router_id: str, attributes: Mapping[str, Any], now: datetime
) -> Router:
    """Changes the given attributes. Raises NotFound, BadRequest, Forbidden, and Conflict if floating IPs or routes need the
    gateway to remove.
    """
    router = get_owned(session, caller, Router, router_id, "update_router")
    _set_columns(router, attributes)
    if "external_gateway_info" in attributes:
        requested = attributes["external_gateway_info"]
        if requested and requested.get("network_id"):
            _check_gateway(caller, "update_router", router, requested)
            set_gateway(session, caller, router, requested, now)
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


def delete_router(session: Session, caller: Caller, router_id: str, now: datetime) -> None:
    """Deletes a router with its gateway. Raises NotFound, and Conflict if it has interfaces or floating IPs."""
    router = get_owned(session, caller, Router, router_id, "delete_router")
    if interfaces(session, router.id):
        raise Conflict(f"Router {router.id} still has ports", kind="RouterInUse")
    router.routes = []
    clear_gateway(session, router, now)
    session.delete(router)
    session.flush()


def interfaces(session: Session, router_id: str) -> list[Port]:
    """The router's ports on internal networks."""
    return [p for p in ports.ports_of_device(session, router_id) if p.attached_owner == DEVICE_OWNER_ROUTER_INTERFACE]


def gateway_port(session: Session, router_id: str) -> Port | None:
    """The router's port on the external network, or None."""
    owned = ports.ports_of_device(session, router_id)
    return next((port for port in owned if port.attached_owner == DEVICE_OWNER_ROUTER_GATEWAY), None)


def set_gateway(session: Session, caller: Caller, router: Router, requested: Mapping[str, Any], now: datetime) -> None:
    """Sets the gateway: `{"network_id": …, "enable_snat": true, "external_fixed_ips": [{"subnet_id": …, "ip_address": …}]}`.

    Raises NotFound, BadRequest, Conflict, Forbidden.
    """
    network = get_visible(session, caller, Network, requested["network_id"])
    if not network.external:
        raise BadRequest(
            "external_gateway_info",
            f"Bad router request: external_gateway_info: Network {network.id} is not an external network.",
            kind="BadRequest",
        )
    port = gateway_port(session, router.id)
    if port is not None and port.network_id != network.id:
        clear_gateway(session, router, now)
        port = None
    _refuse_overlap_outside(session, router, network)
    if port is None:
        _make_gateway(session, router, network, requested, now)
    elif requested.get("external_fixed_ips") is not None:
        ports.update_port(session, SYSTEM, port.id, {"fixed_ips": requested["external_fixed_ips"]}, now)
    router.external_network_id = network.id
    router.enable_snat = requested.get("enable_snat", True if port is None else router.enable_snat)
    router.updated_at = now
    session.flush()


def clear_gateway(session: Session, router: Router, now: datetime) -> None:
    """Removes the gateway. A router without one is not an error. Raises Conflict if floating IPs or routes need it."""
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
    """The subnets in which the router has an address, external ones included."""
    ids = {ip.subnet_id for port in ports.ports_of_device(session, router_id) for ip in port.fixed_ips}
    return list(session.scalars(sa.select(Subnet).where(Subnet.id.in_(ids))))


def change_routes(
    session: Session, caller: Caller, router_id: str, changes: Mapping[str, Sequence[Mapping[str, str]]], now: datetime
) -> Router:
    """Adds missing routes and removes existing ones: `{"add": [route …], "remove": [route …]}`."""
    router = get_owned(session, caller, Router, router_id, next(iter(changes), "add") + "_extraroutes")
    removed = [dict(route) for route in changes.get("remove", ())]
    remaining = [route for route in router.routes if route not in removed]
    added = [dict(route) for route in changes.get("add", ()) if dict(route) not in remaining]
    _set_routes(session, caller, router, [*remaining, *added])
    router.updated_at = now
    session.flush()
    return router


def refuse_gone_nexthops(router: Router, gone: Sequence[str]) -> None:
    """Raises Conflict if the next hop of an extra route is in one of the CIDRs that the router is about to leave."""
    for route in router.routes:
        for cidr in gone:
            if ip_math.holds(cidr, ip_address(route["nexthop"])):
                raise Conflict(
                    f"Router interface for subnet {cidr} on router {router.id} cannot be deleted, as it is required by "
                    f"one or more routes ({route['destination']} via {route['nexthop']}).",
                    kind="RouterInterfaceInUseByRoute",
                )


def refuse_diversion(caller: Caller, routes: Sequence[Mapping[str, str]], connected: Sequence[Subnet]) -> None:
    """Raises BadRequest if an extra route diverts addresses of another project's connected subnet. A shorter prefix than
    the subnet's does not, because the subnet's own route is more specific.
    """
    foreign = [subnet.cidr for subnet in connected if not caller.owns(subnet.project_id)]
    for route in routes:
        target = ip_network(route["destination"])
        for cidr in foreign:
            if ip_math.holds(cidr, target.network_address) and target.prefixlen >= ip_math.network(cidr).prefixlen:
                raise _invalid_route(route, "the destination belongs to a subnet of another project")


def _set_columns(router: Router, attributes: Mapping[str, Any]) -> None:
    for name in COLUMNS:
        if attributes.get(name) is not None:
            setattr(router, name, attributes[name])


def _check_gateway(caller: Caller, action: str, router: Router, requested: Mapping[str, Any]) -> None:
    """Raises Forbidden for a new value of a setting that the policy does not permit."""
    names = []
    if requested.get("external_fixed_ips"):
        names.append("external_gateway_info:external_fixed_ips")
    current = router.enable_snat if router.external_network_id else True
    if requested.get("enable_snat", current) != current:
        names.append("external_gateway_info:enable_snat")
    check_attributes(caller, action, names, router.project_id)


def _make_gateway(
    session: Session, router: Router, network: Network, requested: Mapping[str, Any], now: datetime
) -> None:
    if not network.subnets:
        raise BadRequest(
            "external_gateway_info",
            f"Bad router request: external_gateway_info: No IPs available for external network {network.id}: "
            "the network has no subnet.",
            kind="BadRequest",
        )
    values = {
        "network_id": network.id,
        "project_id": "",  # as in Neutron: the project cannot use the gateway's address for anything else
        "port_security_enabled": False,
    }
    if requested.get("external_fixed_ips"):
        values["fixed_ips"] = requested["external_fixed_ips"]
    ports.create_port(session, SYSTEM, values, now, Attachment(DEVICE_OWNER_ROUTER_GATEWAY, router.id))


def _refuse_overlap_outside(session: Session, router: Router, network: Network) -> None:
    inside = [s for s in connected_subnets(session, router.id) if s.network_id != network.id]
    for outer in network.subnets:
        refuse_overlap(router, outer, inside)


def refuse_overlap(router: Router, subnet: Subnet, others: Sequence[Subnet]) -> None:
    """Raises Conflict if the subnet overlaps one of the others."""
    own = ip_math.span(subnet.cidr)
    for other in others:
        if other.ip_version == subnet.ip_version and own.overlaps(ip_math.span(other.cidr)):
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
    own = {ip.ip_address for port in ports.ports_of_device(session, router.id) for ip in port.fixed_ips}
    for route in routes:
        nexthop = ip_address(route["nexthop"])
        if nexthop.version != ip_network(route["destination"]).version:
            raise _invalid_route(route, "the nexthop and the destination are of different IP versions")
        if not any(ip_math.holds(subnet.cidr, nexthop) for subnet in connected):
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


def add_interface(
    session: Session, caller: Caller, router_id: str, which: Mapping[str, Any], now: datetime
) -> dict[str, Any]:
    """Attaches `{"subnet_id": …}` or `{"port_id": …}`. Returns the response of Neutron's add_router_interface.

    Raises NotFound, BadRequest, and Conflict if the subnet overlaps another one of the router.
    """
    router = get_owned(session, caller, Router, router_id, "add_router_interface")
    if which.get("port_id") and which.get("subnet_id"):
        raise _bad_request("port_id", "Cannot specify both subnet-id and port-id")
    if which.get("port_id"):
        port = _attach_port(session, caller, router, which["port_id"])
    elif which.get("subnet_id"):
        port = _attach_subnet(session, caller, router, which["subnet_id"], now)
    else:
        raise _bad_request("subnet_id", "Either subnet_id or port_id must be specified")
    router.updated_at = now
    session.flush()
    return _interface_json(router, port, which.get("subnet_id"))


def remove_interface(
    session: Session, caller: Caller, router_id: str, which: Mapping[str, Any], now: datetime
) -> dict[str, Any]:
    """Detaches a subnet or a port. Raises NotFound, and Conflict if a floating IP or an extra route needs the interface."""
    router = get_owned(session, caller, Router, router_id, "remove_router_interface")
    if not which.get("port_id") and not which.get("subnet_id"):
        raise _bad_request("subnet_id", "Either subnet_id or port_id must be specified")
    port = _interface(session, router, which)
    subnets = [session.get_one(Subnet, ip.subnet_id) for ip in port.fixed_ips]
    refuse_gone_nexthops(router, [subnet.cidr for subnet in subnets])
    for subnet in subnets:
        _refuse_needed_by_floating_ip(session, router, subnet)
    response = _interface_json(router, port, which.get("subnet_id"))
    ports.delete_port(session, port.id, now)
    router.updated_at = now
    session.flush()
    return response


def _attach_subnet(session: Session, caller: Caller, router: Router, subnet_id: str, now: datetime) -> Port:
    subnet = get_visible(session, caller, Subnet, subnet_id)
    get_owned(session, caller, Network, subnet.network_id, "add_router_interface")
    if not subnet.gateway_ip:
        raise _bad_request("subnet_id", f"Subnet for router interface must have a gateway IP: {subnet.id} has none")
    refuse_overlap(router, subnet, connected_subnets(session, router.id))
    values = {
        "network_id": subnet.network_id,
        "project_id": router.project_id,
        "fixed_ips": [{"subnet_id": subnet.id, "ip_address": subnet.gateway_ip}],
        "port_security_enabled": False,
    }
    return ports.create_port(session, SYSTEM, values, now, _attachment(router))


def _attach_port(session: Session, caller: Caller, router: Router, port_id: str) -> Port:
    port = get_owned(session, caller, Port, port_id, "add_router_interface")
    device_id = port.attached_id or port.device_id
    if device_id:
        raise Conflict(
            f"Unable to complete operation on port {port.id} for network {port.network_id}. Port already has an "
            f"attached device {device_id}.",
            kind="PortInUse",
        )
    if not port.fixed_ips:
        raise _bad_request("port_id", f"Router port must have at least one fixed IP: port {port.id} has none")
    subnets = [session.get_one(Subnet, ip.subnet_id) for ip in port.fixed_ips]
    if sum(subnet.ip_version == 4 for subnet in subnets) > 1:
        raise _bad_request("port_id", f"Cannot have multiple IPv4 subnets on router port {port.id}")
    connected = connected_subnets(session, router.id)
    for subnet in subnets:
        refuse_overlap(router, subnet, connected)
    refuse_diversion(caller, router.routes, subnets)
    port.security_group_ids = []
    port.allowed_address_pairs = []
    port.port_security_enabled = False
    ports.attach_port(session, port, _attachment(router), host=port.host)
    return port


def _attachment(router: Router) -> Attachment:
    return Attachment(DEVICE_OWNER_ROUTER_INTERFACE, router.id)


def _interface(session: Session, router: Router, which: Mapping[str, Any]) -> Port:
    for port in interfaces(session, router.id):
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
        if floating.fixed_ip_address and ip_math.holds(subnet.cidr, ip_address(floating.fixed_ip_address)):
            raise Conflict(
                f"Router interface for subnet {subnet.id} on router {router.id} cannot be deleted, as it is required "
                f"by one or more floating IPs ({floating.floating_ip_address}).",
                kind="RouterInterfaceInUseByFloatingIP",
            )


def _interface_json(router: Router, port: Port, subnet_id: str | None) -> dict[str, Any]:
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


def _bad_request(field: str, reason: str) -> BadRequest:
    return BadRequest(field, f"Bad router request: {field}: {reason}.", kind="BadRequest")
