"""What Nova has and openimds has not: 501 with a sentence, where the general 404 would leave one guessing."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter

from openimds.control_api.compute.protocols import ComputeService
from openimds.control_api.context import AUTHENTICATED
from openimds.resources.errors import NotSupported

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
"""Path, and the sentence's beginning."""

UNSUPPORTED_METHODS = (
    ("/os-quota-sets/{rest:path}", ("PUT", "DELETE"), "Quotas cannot be changed"),
    ("/os-services/{rest:path}", ("PUT", "DELETE"), "Compute services come and go with their agents"),
    ("/servers/{server_id}/os-volume_attachments", ("POST",), "There is no block storage"),
)

ALL_METHODS = ("GET", "POST", "PUT", "DELETE")


def router(service: ComputeService) -> APIRouter:
    del service
    routes = APIRouter(dependencies=AUTHENTICATED)
    for path, reason in UNSUPPORTED_PATHS:
        routes.add_api_route(path, _refusal(reason), methods=list(ALL_METHODS), include_in_schema=False)
    for path, methods, reason in UNSUPPORTED_METHODS:
        routes.add_api_route(path, _refusal(reason), methods=list(methods), include_in_schema=False)
    return routes


def _refusal(reason: str) -> Callable[[], None]:
    def refuse() -> None:
        raise NotSupported(f"{reason}: this call of Nova's is not part of openimds.")

    return refuse
