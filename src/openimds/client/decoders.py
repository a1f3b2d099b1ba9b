"""Decodes the JSON objects of the network API and of the watch into values.

Each function takes one object without its envelope, and raises ParseError if a required attribute is missing. Strings
that thousands of ports share are interned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from sys import intern
from typing import Any

from openimds.resources.network import (
    BINDING_ATTRIBUTE,
    AddressPair,
    AllocationPool,
    ExternalGateway,
    ExtraDhcpOption,
    FixedIP,
    FloatingIP,
    HostRoute,
    Network,
    Port,
    Router,
    Subnet,
)
from openimds.resources.server import Server

Json = Mapping[str, Any]
Resource = Network | Subnet | Port | Router | FloatingIP | Server


class ParseError(Exception):
    """An object is malformed. The message names the kind and the attribute."""


def network(body: Json) -> Network:
    return Network(
        id=_text(body, "id"),
        name=body.get("name") or "",
        project_id=_project(body),
        mtu=int(body.get("mtu") or 1500),
        shared=bool(body.get("shared")),
        external=bool(body.get("router:external")),
        admin_state_up=bool(body.get("admin_state_up", True)),
        port_security_enabled=bool(body.get("port_security_enabled", True)),
        dns_domain=body.get("dns_domain") or "",
    )


def subnet(body: Json) -> Subnet:
    return Subnet(
        id=_text(body, "id"),
        network_id=_text(body, "network_id"),
        project_id=_project(body),
        name=body.get("name") or "",
        ip_version=int(body.get("ip_version") or 4),
        cidr=_text(body, "cidr"),
        gateway_ip=body.get("gateway_ip") or None,
        enable_dhcp=bool(body.get("enable_dhcp", True)),
        dns_nameservers=tuple(body.get("dns_nameservers") or ()),
        host_routes=_routes(body.get("host_routes")),
        allocation_pools=tuple(
            AllocationPool(_text(pool, "start"), _text(pool, "end")) for pool in body.get("allocation_pools") or ()
        ),
        ipv6_ra_mode=body.get("ipv6_ra_mode") or None,
        ipv6_address_mode=body.get("ipv6_address_mode") or None,
    )


def port(body: Json) -> Port:
    """The port with the device of the recorded attachment, if the API has it, because users can write Neutron's fields."""
    binding = body.get(BINDING_ATTRIBUTE)
    device = body if binding is None else binding
    blocks = None if binding is None else binding.get("provisioning_blocks")
    return Port(
        id=_text(body, "id"),
        network_id=intern(_text(body, "network_id")),
        project_id=intern(_project(body)),
        name=body.get("name") or "",
        mac_address=_text(body, "mac_address"),
        fixed_ips=_fixed_ips(body.get("fixed_ips")),
        device_id=device.get("device_id") or "",
        device_owner=intern(device.get("device_owner") or ""),
        host=intern(body.get("binding:host_id") or ""),
        admin_state_up=bool(body.get("admin_state_up", True)),
        status=intern(body.get("status") or "DOWN"),
        port_security_enabled=bool(body.get("port_security_enabled", True)),
        allowed_address_pairs=tuple(
            AddressPair(_text(pair, "ip_address"), pair.get("mac_address"))
            for pair in body.get("allowed_address_pairs") or ()
        ),
        security_group_ids=_shared(tuple(body.get("security_groups") or ())),
        extra_dhcp_options=tuple(
            ExtraDhcpOption(_text(option, "opt_name"), str(option["opt_value"]), int(option.get("ip_version") or 4))
            for option in body.get("extra_dhcp_opts") or ()
            if option.get("opt_value") is not None
        ),
        dns_name=body.get("dns_name") or "",
        binding_generation=int(binding.get("generation") or 0) if binding else 0,
        provisioning_blocks=None if blocks is None else _shared(tuple(map(intern, blocks))),
    )


def router(body: Json) -> Router:
    gateway = body.get("external_gateway_info")
    return Router(
        id=_text(body, "id"),
        name=body.get("name") or "",
        project_id=_project(body),
        admin_state_up=bool(body.get("admin_state_up", True)),
        external_gateway=_gateway(gateway) if gateway else None,
        routes=_routes(body.get("routes")),
    )


def floating_ip(body: Json) -> FloatingIP:
    return FloatingIP(
        id=_text(body, "id"),
        project_id=_project(body),
        floating_network_id=_text(body, "floating_network_id"),
        floating_ip_address=_text(body, "floating_ip_address"),
        fixed_ip_address=body.get("fixed_ip_address") or None,
        port_id=body.get("port_id") or None,
        router_id=body.get("router_id") or None,
    )


def server(body: Json) -> Server:
    """A server in the format of docs/design/watch.md."""
    return Server(
        id=_text(body, "id"),
        name=body.get("name") or "",
        project_id=_project(body),
        hostname=body.get("hostname") or "",
        host=body.get("host") or "",
        driver=body.get("driver") or "netns",
        wanted_power_state=_text(body, "wanted_power_state"),
        boot_generation=int(body.get("boot_generation") or 0),
        memory_mib=int(body.get("memory_mib") or 0),
        disk_gib=int(body.get("disk_gib") or 0),
        port_ids=tuple(body.get("port_ids") or ()),
        status=intern(body.get("status") or ""),
    )


PARSERS: Mapping[str, Callable[[Json], Resource]] = {
    "network": network,
    "subnet": subnet,
    "port": port,
    "router": router,
    "floatingip": floating_ip,
    "server": server,
}
"""The parser of each kind of the watch."""


def resource(kind: str, body: Json) -> Resource:
    """Decodes an object of the watch. Raises ParseError."""
    parser = PARSERS.get(kind)
    if parser is None:
        raise ParseError(f"there is no kind {kind!r}")
    try:
        return parser(body)
    except ParseError as error:
        raise ParseError(f"{kind} {body.get('id', '')}: {error}") from None
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ParseError(f"{kind} malformed: {error}") from None


def _text(body: Json, name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise ParseError(f"{name} is missing")
    return value


@lru_cache(1024)
def _shared(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the same object for equal tuples of different ports."""
    return texts


def _project(body: Json) -> str:
    return body.get("project_id") or body.get("tenant_id") or ""


def _fixed_ips(entries: Iterable[Json] | None) -> tuple[FixedIP, ...]:
    return tuple(FixedIP(intern(_text(entry, "subnet_id")), _text(entry, "ip_address")) for entry in entries or ())


def _routes(entries: Iterable[Json] | None) -> tuple[HostRoute, ...]:
    return tuple(HostRoute(_text(entry, "destination"), _text(entry, "nexthop")) for entry in entries or ())


def _gateway(body: Json) -> ExternalGateway:
    return ExternalGateway(
        network_id=_text(body, "network_id"),
        enable_snat=bool(body.get("enable_snat", True)),
        external_fixed_ips=_fixed_ips(body.get("external_fixed_ips")),
    )
