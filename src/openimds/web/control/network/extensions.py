"""Neutron's extensions, as far as openimds has them; clients look here for what they may ask."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from openimds.resources.errors import NotFound
from openimds.web.control.network.asking import Asker

UPDATED = "2026-01-01T00:00:00-00:00"

EXTENSIONS = {
    "agent": "Agents, and whether they are alive",
    "allowed-address-pairs": "Addresses beside its own that a port may send from",
    "availability_zone": "Availability zones",
    "binding": "Where a port is bound",
    "dns-integration": "Host names of ports",
    "external-net": "Networks that lead outside",
    "extra_dhcp_opt": "DHCP options of a port",
    "extraroute": "Static routes of routers",
    "extraroute-atomic": "Static routes added and removed one by one",
    "ext-gw-mode": "Source NAT of a router, on or off",
    "fip-port-details": "The port that a floating IP leads to, in short",
    "filter-validation": "A filter that is no attribute is refused",
    "net-mtu": "The MTU of a network",
    "net-mtu-writable": "The MTU of a network can be set",
    "network-ip-availability": "How full networks are",
    "network_availability_zone": "Availability zones of networks",
    "pagination": "Pages of collections",
    "port-security": "Anti-spoofing, on or off",
    "project-id": "project_id beside tenant_id",
    "provider": "The segment that a network is",
    "quotas": "Limits of projects, read-only",
    "quota_details": "Limits of projects, with what is used",
    "router": "Routers and floating IPs",
    "router_availability_zone": "Availability zones of routers",
    "security-group": "Security groups, without rules",
    "sorting": "Sorted collections",
    "standard-attr-description": "Descriptions",
    "standard-attr-revisions": "Revision numbers",
    "standard-attr-tag": "Tags",
    "standard-attr-timestamp": "Times of creation and change",
    "tag-creation": "Tags given when a resource is made",
    "tag-ports-during-bulk-creation": "Tags given when ports are made",
}
"""Alias → what it is."""


def router() -> APIRouter:
    """`/extensions`."""
    routes = APIRouter()
    known = {alias: _shown(alias, text) for alias, text in EXTENSIONS.items()}

    @routes.get("/extensions")
    def list_extensions(asker: Asker) -> dict[str, Any]:
        del asker
        return {"extensions": list(known.values())}

    @routes.get("/extensions/{alias}")
    def show_extension(alias: str, asker: Asker) -> dict[str, Any]:
        del asker
        if alias not in known:
            raise NotFound(
                f"Extension with alias {alias} does not exist: openimds does not have it.", kind="ExtensionNotFound"
            )
        return {"extension": known[alias]}

    return routes


def _shown(alias: str, description: str) -> dict[str, Any]:
    return {"alias": alias, "name": alias, "description": description, "updated": UPDATED, "links": []}
