"""Agents, quotas, availability zones, IP availability, security group rules and extensions. All except agents are read-only."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from openimds.control_api.network import request_params
from openimds.control_api.network.protocols import Agents, UsageStore
from openimds.control_api.network.request_params import CallerDep, QueryParams
from openimds.control_api.routing import ServiceRouter
from openimds.resources.errors import NotFound, NotSupported

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
"""Alias → (Neutron's name, description). Clients search by alias or by name."""

ZONES = [{"name": "nova", "resource": resource, "state": "available"} for resource in ("network", "router")]


def router(agents: Agents, usage: UsageStore) -> APIRouter:
    """`/agents`, `/quotas`, `/availability_zones`, `/network-ip-availabilities`, `/security-group-rules`, `/extensions`."""
    routes = ServiceRouter()
    _agents(routes, agents)
    _quotas(routes, usage)
    _usage(routes, usage)
    _rules(routes)
    _extensions(routes)
    return routes


def _agents(routes: APIRouter, store: Agents) -> None:
    @routes.get("/agents")
    def list_agents(caller: CallerDep, pairs: QueryParams) -> dict[str, Any]:
        fields = request_params.requested_fields(pairs)
        return {
            "agents": [
                request_params.select_fields(a, fields) for a in store.agents(caller, request_params.list_query(pairs))
            ]
        }

    @routes.get("/agents/{agent_id}")
    def show_agent(agent_id: str, caller: CallerDep) -> dict[str, Any]:
        return {"agent": store.agent(caller, agent_id)}

    @routes.delete("/agents/{agent_id}", status_code=204)
    def delete_agent(agent_id: str, caller: CallerDep) -> None:
        store.delete_agent(caller, agent_id)

    @routes.put("/agents/{agent_id}")
    def update_agent(agent_id: str, caller: CallerDep) -> None:
        store.agent(caller, agent_id)
        raise NotSupported(
            "openimds' agents cannot be set administratively down or described: stop the program instead."
        )


def _quotas(routes: APIRouter, store: UsageStore) -> None:
    @routes.get("/quotas")
    def list_quotas(caller: CallerDep) -> dict[str, Any]:
        del caller
        return {"quotas": []}  # all projects have the default limits

    @routes.get("/quotas/{project_id}")
    @routes.get("/quotas/{project_id}/default")
    def show_quota(project_id: str, caller: CallerDep) -> dict[str, Any]:
        store.quota_details(caller, project_id)
        return {"quota": dict(store.quota_limits())}

    @routes.get("/quotas/{project_id}/details")
    @routes.get("/quotas/{project_id}/details.json")
    def quota_details(project_id: str, caller: CallerDep) -> dict[str, Any]:
        return {"quota": dict(store.quota_details(caller, project_id))}

    @routes.put("/quotas/{project_id}")
    @routes.delete("/quotas/{project_id}")
    def change_quota(project_id: str, caller: CallerDep) -> None:
        del caller
        raise NotSupported(f"openimds' quotas are read-only and alike for all projects ({project_id}).")


def _usage(routes: APIRouter, store: UsageStore) -> None:
    @routes.get("/availability_zones")
    def list_availability_zones(caller: CallerDep, pairs: QueryParams) -> dict[str, Any]:
        del caller
        filters = request_params.list_query(pairs).filters
        shown = [z for z in ZONES if all(z.get(name) in values for name, values in filters.items())]
        return {"availability_zones": shown}

    @routes.get("/network-ip-availabilities")
    def list_ip_availabilities(caller: CallerDep, pairs: QueryParams) -> dict[str, Any]:
        found = store.ip_availabilities(caller, request_params.list_query(pairs))
        return {"network_ip_availabilities": list(found)}

    @routes.get("/network-ip-availabilities/{network_id}")
    def show_ip_availability(network_id: str, caller: CallerDep) -> dict[str, Any]:
        return {"network_ip_availability": store.ip_availability(caller, network_id)}


def _rules(routes: APIRouter) -> None:
    @routes.get("/security-group-rules")
    def list_rules(caller: CallerDep) -> dict[str, Any]:
        del caller
        return {"security_group_rules": []}

    @routes.get("/security-group-rules/{rule_id}")
    @routes.delete("/security-group-rules/{rule_id}")
    def no_rule(rule_id: str, caller: CallerDep) -> None:
        del caller
        raise NotFound(f"Security group rule {rule_id} could not be found.", kind="SecurityGroupRuleNotFound")

    @routes.post("/security-group-rules")
    def create_rule(caller: CallerDep) -> None:
        del caller
        raise NotSupported(
            "openimds keeps security groups' names but does not enforce rules yet, so it takes none: "
            "a rule that is not enforced would be a promise that is not kept."
        )


def _extensions(routes: APIRouter) -> None:
    extensions = {alias: _extension(alias, *texts) for alias, texts in EXTENSIONS.items()}

    @routes.get("/extensions")
    def list_extensions(caller: CallerDep) -> dict[str, Any]:
        del caller
        return {"extensions": list(extensions.values())}

    @routes.get("/extensions/{alias}")
    def show_extension(alias: str, caller: CallerDep) -> dict[str, Any]:
        del caller
        if alias not in extensions:
            raise NotFound(
                f"Extension with alias {alias} does not exist: openimds does not have it.", kind="ExtensionNotFound"
            )
        return {"extension": extensions[alias]}


def _extension(alias: str, name: str, description: str) -> dict[str, Any]:
    return {"alias": alias, "name": name, "description": description, "updated": UPDATED, "links": []}
