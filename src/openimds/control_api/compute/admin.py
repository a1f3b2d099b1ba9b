"""Availability zones, hypervisors, services, limits and quotas (read-only), and the routes of Nova that openimds does not have."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import APIRouter

from openimds.control_api.compute.microversions import Microversion, Version
from openimds.control_api.compute.protocols import ComputeService
from openimds.control_api.context import (
    AUTHENTICATED,
    AuthenticatedCaller,
    ProjectCaller,
    authorize,
    require_project,
)
from openimds.control_api.routing import ServiceRouter
from openimds.resources.compute import COMPUTE_AGENT_BINARY, ComputeHost
from openimds.resources.errors import NotFound, NotSupported

QUOTAS: Mapping[str, int] = {
    "instances": 10_000,
    "cores": -1,
    "ram": -1,
    "metadata_items": 128,
    "key_pairs": -1,
    "server_groups": 0,
    "server_group_members": 0,
    "injected_files": 5,
    "injected_file_content_bytes": 10_240,
    "injected_file_path_bytes": 255,
}
"""Nova's quotas. -1 means unlimited."""

INJECTED = ("injected_files", "injected_file_content_bytes", "injected_file_path_bytes")


def router(service: ComputeService) -> APIRouter:
    routes = ServiceRouter()
    _zones(routes, service)
    _hypervisors(routes, service)
    _services(routes, service)
    _limits(routes, service)
    return routes


def _zones(routes: APIRouter, service: ComputeService) -> None:
    @routes.get("/os-availability-zone")
    def list_zones(caller: AuthenticatedCaller) -> dict[str, Any]:
        del caller
        return {"availabilityZoneInfo": [_zone(name, hosts, detail=False) for name, hosts in _by_zone(service).items()]}

    @routes.get("/os-availability-zone/detail")
    def list_zones_in_detail(caller: AuthenticatedCaller) -> dict[str, Any]:
        authorize(caller, "os_compute_api:os-availability-zone:detail")
        return {"availabilityZoneInfo": [_zone(name, hosts, detail=True) for name, hosts in _by_zone(service).items()]}


def _hypervisors(routes: APIRouter, service: ComputeService) -> None:
    @routes.get("/os-hypervisors")
    def list_hypervisors(
        caller: AuthenticatedCaller, version: Version, hypervisor_hostname_pattern: str | None = None
    ) -> dict[str, Any]:
        authorize(caller, "os_compute_api:os-hypervisors:list")
        found = _matching(service.store.hosts.list(), hypervisor_hostname_pattern)
        return {"hypervisors": [_hypervisor(host, version) for host in found]}

    @routes.get("/os-hypervisors/detail")
    def list_hypervisors_in_detail(
        caller: AuthenticatedCaller, version: Version, hypervisor_hostname_pattern: str | None = None
    ) -> dict[str, Any]:
        authorize(caller, "os_compute_api:os-hypervisors:list-detail")
        found = _matching(service.store.hosts.list(), hypervisor_hostname_pattern)
        return {"hypervisors": [_hypervisor_detail(host, version) for host in found]}

    @routes.get("/os-hypervisors/{hypervisor_id}")
    def show_hypervisor(caller: AuthenticatedCaller, version: Version, hypervisor_id: str) -> dict[str, Any]:
        authorize(caller, "os_compute_api:os-hypervisors:show")
        for host in service.store.hosts.list():
            if str(_hypervisor_id(host, version)) == hypervisor_id:
                return {"hypervisor": _hypervisor_detail(host, version)}
        raise NotFound(f"Hypervisor with ID '{hypervisor_id}' could not be found.")


def _services(routes: APIRouter, service: ComputeService) -> None:
    @routes.get("/os-services")
    def list_services(
        caller: AuthenticatedCaller, version: Version, host: str | None = None, binary: str | None = None
    ) -> dict[str, Any]:
        authorize(caller, "os_compute_api:os-services:list")
        found = [
            item
            for item in service.store.hosts.list()
            if host in {None, item.name} and binary in {None, COMPUTE_AGENT_BINARY}
        ]
        return {"services": [_service(item, version) for item in found]}


def _limits(routes: APIRouter, service: ComputeService) -> None:
    @routes.get("/limits")
    def show_limits(caller: ProjectCaller, version: Version, tenant_id: str | None = None) -> dict[str, Any]:
        project_id = tenant_id or caller.project_id
        require_project(caller, project_id, f"Project {project_id}")
        used = service.store.servers.count(project_id)
        absolute = {
            "maxTotalInstances": QUOTAS["instances"],
            "maxTotalCores": QUOTAS["cores"],
            "maxTotalRAMSize": QUOTAS["ram"],
            "maxTotalKeypairs": QUOTAS["key_pairs"],
            "maxServerGroups": QUOTAS["server_groups"],
            "maxServerGroupMembers": QUOTAS["server_group_members"],
            "maxServerMeta": QUOTAS["metadata_items"],
            "totalInstancesUsed": used["instances"],
            "totalCoresUsed": used["cores"],
            "totalRAMUsed": used["ram"],
            "totalServerGroupsUsed": 0,
        }
        if version < (2, 57):
            absolute |= {
                "maxPersonality": QUOTAS["injected_files"],
                "maxPersonalitySize": QUOTAS["injected_file_content_bytes"],
            }
        return {"limits": {"rate": [], "absolute": absolute}}

    @routes.get("/os-quota-sets/{project_id}")
    @routes.get("/os-quota-sets/{project_id}/defaults")
    def show_quotas(caller: ProjectCaller, version: Version, project_id: str) -> dict[str, Any]:
        require_project(caller, project_id, f"Project {project_id}")
        return {"quota_set": {"id": project_id, **_quotas(version)}}

    @routes.get("/os-quota-sets/{project_id}/detail")
    def show_quotas_in_detail(caller: ProjectCaller, version: Version, project_id: str) -> dict[str, Any]:
        require_project(caller, project_id, f"Project {project_id}")
        used = service.store.servers.count(project_id)
        detail = {
            name: {"limit": limit, "in_use": used.get(name, 0), "reserved": 0}
            for name, limit in _quotas(version).items()
        }
        return {"quota_set": {"id": project_id, **detail}}


def _by_zone(service: ComputeService) -> dict[str, list[ComputeHost]]:
    zones: dict[str, list[ComputeHost]] = {}
    for host in service.store.hosts.list():
        zones.setdefault(host.zone, []).append(host)
    return zones


def _zone(name: str, hosts: Sequence[ComputeHost], *, detail: bool) -> dict[str, Any]:
    shown = {
        host.name: {COMPUTE_AGENT_BINARY: {"available": host.alive, "active": True, "updated_at": _time(host)}}
        for host in hosts
    }
    return {
        "zoneName": name,
        "zoneState": {"available": any(host.alive for host in hosts)},
        "hosts": shown if detail else None,
    }


def _matching(hosts: Sequence[ComputeHost], pattern: str | None) -> list[ComputeHost]:
    return [host for host in hosts if pattern is None or pattern in host.name]


def _hypervisor_id(host: ComputeHost, version: Microversion) -> str | int:
    """The UUID from 2.53 on. Before that, a number derived from the UUID."""
    return host.agent_id if version >= (2, 53) else zlib.crc32(host.agent_id.encode()) & 0x7FFFFFFF


def _hypervisor(host: ComputeHost, version: Microversion) -> dict[str, Any]:
    return {
        "id": _hypervisor_id(host, version),
        "hypervisor_hostname": host.name,
        "state": "up" if host.alive else "down",
        "status": "enabled",
    }


def _hypervisor_detail(host: ComputeHost, version: Microversion) -> dict[str, Any]:
    shown = {
        **_hypervisor(host, version),
        "hypervisor_type": host.driver,
        "hypervisor_version": 0,
        "host_ip": str(host.configurations.get("host_ip") or ""),
        "service": {"id": _hypervisor_id(host, version), "host": host.name, "disabled_reason": None},
    }
    if version < (2, 88):
        shown |= {
            "vcpus": 0,
            "vcpus_used": 0,
            "memory_mb": 0,
            "memory_mb_used": 0,
            "free_ram_mb": 0,
            "local_gb": 0,
            "local_gb_used": 0,
            "free_disk_gb": 0,
            "disk_available_least": None,
            "current_workload": 0,
            "running_vms": host.running_servers,
            "cpu_info": {} if version >= (2, 28) else "",
        }
    elif version >= (2, 88):
        shown["uptime"] = None
    return shown


def _service(host: ComputeHost, version: Microversion) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": _hypervisor_id(host, version),
        "binary": COMPUTE_AGENT_BINARY,
        "host": host.name,
        "zone": host.zone,
        "status": "enabled",
        "state": "up" if host.alive else "down",
        "updated_at": _time(host),
        "disabled_reason": None,
    }
    return {**shown, "forced_down": False} if version >= (2, 11) else shown


def _time(host: ComputeHost) -> str:
    return host.heartbeat_at.strftime("%Y-%m-%dT%H:%M:%S.%f")


def _quotas(version: Microversion) -> dict[str, int]:
    return {name: value for name, value in QUOTAS.items() if version < (2, 57) or name not in INJECTED}


UNSUPPORTED_PATHS = (
    ("/os-simple-tenant-usage", "Usage statistics are not kept"),
    ("/os-simple-tenant-usage/{rest:path}", "Usage statistics are not kept"),
    ("/os-server-groups", "Server groups are not supported: name a host or an availability zone for each server"),
    ("/os-server-groups/{rest:path}", "Server groups are not supported"),
    ("/os-aggregates", "Host aggregates are not supported: a compute agent tells its availability zone itself"),
    ("/os-aggregates/{rest:path}", "Host aggregates are not supported"),
    ("/os-migrations", "Servers are not migrated"),
    ("/os-assisted-volume-snapshots", "There is no block storage"),
    ("/os-volumes{rest:path}", "There is no block storage"),
    ("/servers/{server_id}/os-volume_attachments/{rest:path}", "There is no block storage"),
    ("/servers/{server_id}/remote-consoles", "Remote consoles are not supported: read the console log"),
    ("/servers/{server_id}/diagnostics", "Diagnostics of a server are not kept"),
    ("/servers/{server_id}/migrations", "Servers are not migrated"),
    ("/servers/{server_id}/topology", "CPU and memory topologies are not kept"),
    ("/servers/{server_id}/shares", "Shared file systems are not supported"),
)
"""(path, reason)"""

UNSUPPORTED_METHODS = (
    ("/os-quota-sets/{rest:path}", ("PUT", "DELETE"), "Quotas cannot be changed"),
    ("/os-services/{rest:path}", ("PUT", "DELETE"), "Compute services come and go with their agents"),
    ("/servers/{server_id}/os-volume_attachments", ("POST",), "There is no block storage"),
)

ALL_METHODS = ("GET", "POST", "PUT", "DELETE")


def unsupported_router() -> APIRouter:
    """Routes of Nova's API that openimds does not implement. They respond 501 with a reason."""
    routes = ServiceRouter(dependencies=AUTHENTICATED)
    for path, reason in UNSUPPORTED_PATHS:
        routes.add_api_route(path, _refusal(reason), methods=list(ALL_METHODS), include_in_schema=False)
    for path, methods, reason in UNSUPPORTED_METHODS:
        routes.add_api_route(path, _refusal(reason), methods=list(methods), include_in_schema=False)
    return routes


def _refusal(reason: str) -> Callable[[], None]:
    def refuse() -> None:
        raise NotSupported(f"{reason}: this call of Nova's is not part of openimds.")

    return refuse
