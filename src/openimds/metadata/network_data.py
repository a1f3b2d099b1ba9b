"""network_data.json: the NICs, their addresses and their name servers.

The document shows only the first IPv4 and the first IPv6 subnet of a port's network, as in Nova.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_network
from typing import Any

from openimds.resources.instance import Nic, NicSubnet

_EXPOSED_VIF_TYPES = frozenset({"bridge", "dvs", "hw_veb", "hyperv", "ovs", "tap", "vhostuser", "vif"})
"""Link types that clients know. All other types are shown as `phy` (nova bug 1642679)."""

_DEFAULT_ROUTE = {4: "0.0.0.0", 6: "::"}


def network_data(nics: Sequence[Nic]) -> dict[str, Any]:
    """`{"links": […], "networks": […], "services": […]}`. Empty if the instance has no NICs."""
    if not nics:
        return {}
    links: list[dict[str, Any]] = []
    networks: list[dict[str, Any]] = []
    services: list[dict[str, Any]] = []
    for nic in nics:
        subnets = first_subnets(nic)
        if not subnets:
            continue
        link = _link(nic, len(links))
        links.append(link)
        for subnet in subnets:
            if subnet.addresses:
                networks.append(_network(nic, subnet, link["id"], len(networks)))
                services += [service for service in _services(subnet) if service not in services]
    return {"links": links, "networks": networks, "services": services}


def first_subnets(nic: Nic) -> list[NicSubnet]:
    """The first IPv4 and the first IPv6 subnet of a NIC, if they exist."""
    found = (_first(nic.subnets, 4), _first(nic.subnets, 6))
    return [subnet for subnet in found if subnet is not None]


def _first(subnets: Iterable[NicSubnet], ip_version: int) -> NicSubnet | None:
    return next((subnet for subnet in subnets if subnet.ip_version == ip_version), None)


def _link(nic: Nic, number: int) -> dict[str, Any]:
    return {
        "id": nic.device_name or f"interface{number}",
        "vif_id": nic.port_id,
        "type": nic.vif_type if nic.vif_type in _EXPOSED_VIF_TYPES else "phy",
        # A DHCP server sends the MTU to the instance (option 26), and the document must not contradict it.
        "mtu": None if any(subnet.has_dhcp_server for subnet in nic.subnets) else nic.mtu,
        "ethernet_mac_address": nic.mac_address,
    }


def _network(nic: Nic, subnet: NicSubnet, link_id: str, number: int) -> dict[str, Any]:
    family = f"ipv{subnet.ip_version}"
    identity = {"id": f"network{number}", "link": link_id, "network_id": nic.network_id}
    if subnet.ipv6_address_mode is None and (subnet.has_dhcp_server or subnet.enable_dhcp):
        return _ordered(identity, {"type": f"{family}_dhcp"})
    mode = f"_{subnet.ipv6_address_mode}" if subnet.ipv6_address_mode is not None else ""
    return _ordered(
        identity,
        {
            "type": f"{family}{mode}",
            "ip_address": subnet.addresses[0].ip_address,
            "netmask": _netmask(subnet.cidr),
            "routes": _routes(subnet),
            "services": _services(subnet),
        },
    )


_KEY_ORDER = ("id", "type", "link", "ip_address", "netmask", "routes", "network_id", "services")


def _ordered(*parts: dict[str, Any]) -> dict[str, Any]:
    merged = {key: value for part in parts for key, value in part.items()}
    return {key: merged[key] for key in _KEY_ORDER if key in merged}


def _routes(subnet: NicSubnet) -> list[dict[str, str]]:
    routes = []
    if subnet.gateway_ip:
        anywhere = _DEFAULT_ROUTE[subnet.ip_version]
        routes.append({"network": anywhere, "netmask": anywhere, "gateway": subnet.gateway_ip})
    for route in subnet.host_routes:
        network = ip_network(route.destination, strict=False)
        routes.append(
            {"network": str(network.network_address), "netmask": str(network.netmask), "gateway": route.nexthop}
        )
    return routes


def _services(subnet: NicSubnet) -> list[dict[str, str]]:
    return [{"type": "dns", "address": address} for address in subnet.dns_nameservers]


def _netmask(cidr: str) -> str:
    return str(ip_network(cidr, strict=False).netmask)
