"""Neutron's extensions, as far as openimds has them; clients look here for what they may ask.

Version discovery of the network service. It is public, as Neutron's is.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from openimds.control_api.network.attributes import KIND_BY_COLLECTION, plural
from openimds.control_api.network.request_params import CallerDep
from openimds.resources.errors import NotFound

UPDATED = "2026-01-01T00:00:00-00:00"

EXTENSIONS = {
    "agent": ("agent", "Agents, and whether they are alive"),
    "allowed-address-pairs": ("Allowed Address Pairs", "Addresses beside its own that a port may send from"),
    "availability_zone": ("Availability Zone", "Availability zones"),
    "binding": ("Port Binding", "Where a port is bound"),
    "dns-integration": ("DNS Integration", "Host names of ports"),
    "external-net": ("Neutron external network", "Networks that lead outside"),
    "extra_dhcp_opt": ("Neutron Extra DHCP options", "DHCP options of a port"),
    "extraroute": ("Neutron Extra Route", "Static routes of routers"),
    "extraroute-atomic": ("Atomically add/remove extra routes", "Static routes added and removed one by one"),
    "ext-gw-mode": ("Neutron L3 Configurable external gateway mode", "Source NAT of a router, on or off"),
    "fip-port-details": ("Floating IP Port Details Extension", "The port that a floating IP leads to, in short"),
    "filter-validation": ("Filter parameters validation", "A filter that is no attribute is refused"),
    "net-mtu": ("Network MTU", "The MTU of a network"),
    "net-mtu-writable": ("Network MTU (writable)", "The MTU of a network can be set"),
    "network-ip-availability": ("Network IP Availability", "How full networks are"),
    "network_availability_zone": ("Network Availability Zone", "Availability zones of networks"),
    "pagination": ("Pagination support", "Pages of collections"),
    "port-security": ("Port Security", "Anti-spoofing, on or off"),
    "project-id": ("project_id field enabled", "project_id beside tenant_id"),
    "provider": ("Provider Network", "The segment that a network is"),
    "quotas": ("Quota management support", "Limits of projects, read-only"),
    "quota_details": ("Quota details management support", "Limits of projects, with what is used"),
    "revision-if-match": ("If-Match constraints based on revision_number", "Changes bound to a revision number"),
    "router": ("Neutron L3 Router", "Routers and floating IPs"),
    "router_availability_zone": ("Router Availability Zone", "Availability zones of routers"),
    "security-group": ("security-group", "Security groups, without rules"),
    "sorting": ("Sorting support", "Sorted collections"),
    "standard-attr-description": ("standard-attr-description", "Descriptions"),
    "standard-attr-revisions": ("Resource revision numbers", "Revision numbers"),
    "standard-attr-tag": ("Tag support for resources with standard attribute", "Tags"),
    "standard-attr-timestamp": ("Resource timestamps", "Times of creation and change"),
    "tag-creation": ("Tag creation", "Tags given when a resource is made"),
    "tag-ports-during-bulk-creation": ("Tag Ports During Bulk Creation", "Tags given when ports are made"),
}
"""Alias → (the name that Neutron has for it: clients search by either, what it is)."""


def router() -> APIRouter:
    """`/extensions`."""
    routes = APIRouter()
    known = {alias: _shown(alias, *texts) for alias, texts in EXTENSIONS.items()}

    @routes.get("/extensions")
    def list_extensions(asker: CallerDep) -> dict[str, Any]:
        del asker
        return {"extensions": list(known.values())}

    @routes.get("/extensions/{alias}")
    def show_extension(alias: str, asker: CallerDep) -> dict[str, Any]:
        del asker
        if alias not in known:
            raise NotFound(
                f"Extension with alias {alias} does not exist: openimds does not have it.", kind="ExtensionNotFound"
            )
        return {"extension": known[alias]}

    return routes


def _shown(alias: str, name: str, description: str) -> dict[str, Any]:
    return {"alias": alias, "name": name, "description": description, "updated": UPDATED, "links": []}


def add_to(routes: APIRouter, public_url: str) -> None:
    """`/network` and `/network/v2.0` themselves. `public_url`: `http://127.0.0.1:5000`, without a slash at its end."""
    root = f"{public_url}/network"

    @routes.get("")
    def versions() -> dict[str, Any]:
        link = {"rel": "self", "href": f"{root}/v2.0/"}
        return {"versions": [{"id": "v2.0", "status": "CURRENT", "links": [link]}]}

    @routes.get("/v2.0")
    def resources() -> dict[str, Any]:
        shown = [
            {
                "name": kind,
                "collection": plural(kind),
                "links": [{"rel": "self", "href": f"{root}/v2.0/{path}"}],
            }
            for path, kind in KIND_BY_COLLECTION.items()
        ]
        return {"resources": shown}
