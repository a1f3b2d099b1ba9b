"""Routes below `/servers/{id}`: metadata, tags, interfaces, addresses, security groups, password, instance actions, and
`POST /servers/{id}/action`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ValidationError

from openimds.control_api.compute import policies, server_view
from openimds.control_api.compute.microversions import Microversion, Version
from openimds.control_api.compute.protocols import ComputeService
from openimds.control_api.compute.schemas import (
    MAX_TAGS,
    ConsoleFields,
    InterfaceAttach,
    LockFields,
    MetadataBody,
    MetadataItem,
    RebootFields,
    RebuildFields,
    SecurityGroupRef,
    Tag,
    TagsBody,
)
from openimds.control_api.compute.server_parsing import check_metadata, rebuild
from openimds.control_api.context import ProjectCaller
from openimds.control_api.routing import ServiceRouter
from openimds.resources.compute import InstanceAction, Interface, NicRequest, Requester
from openimds.resources.errors import BadRequest, NotFound, NotSupported


def router(service: ComputeService) -> APIRouter:
    routes = ServiceRouter(prefix="/servers/{server_id}")
    _metadata(routes, service)
    _tags(routes, service)
    _interfaces(routes, service)
    _addresses(routes, service)
    _server_password(routes, service)
    _actions(routes, service)
    return routes


def _metadata(routes: APIRouter, service: ComputeService) -> None:
    servers = service.store.servers

    @routes.get("/metadata")
    def list_metadata(caller: ProjectCaller, server_id: str) -> dict[str, Any]:
        return {"metadata": dict(servers.get(server_id, caller.requester).metadata)}

    @routes.post("/metadata")
    def merge_metadata(caller: ProjectCaller, server_id: str, body: MetadataBody) -> dict[str, Any]:
        return {"metadata": _changed(caller, server_id, lambda known: {**known, **body.metadata})}

    @routes.put("/metadata")
    def replace_metadata(caller: ProjectCaller, server_id: str, body: MetadataBody) -> dict[str, Any]:
        return {"metadata": _changed(caller, server_id, lambda _: body.metadata)}

    @routes.get("/metadata/{key}")
    def show_item(caller: ProjectCaller, server_id: str, key: str) -> dict[str, Any]:
        known = servers.get(server_id, caller.requester).metadata
        if key not in known:
            raise NotFound("Metadata item was not found")
        return {"meta": {key: known[key]}}

    @routes.put("/metadata/{key}")
    def set_item(caller: ProjectCaller, server_id: str, key: str, body: MetadataItem) -> dict[str, Any]:
        if key not in body.meta:
            raise BadRequest("meta", "Request body and URI mismatch: the key in both must be the same")
        _changed(caller, server_id, lambda known: {**known, **body.meta})
        return {"meta": body.meta}

    @routes.delete("/metadata/{key}", status_code=204)
    def delete_item(caller: ProjectCaller, server_id: str, key: str) -> None:
        def without(known: Any) -> Any:
            if key not in known:
                raise NotFound("Metadata item was not found")
            return {name: value for name, value in known.items() if name != key}

        _changed(caller, server_id, without)

    def _changed(caller: ProjectCaller, server_id: str, change: Any) -> dict[str, str]:
        def checked(known: Any) -> Any:
            after = change(known)
            check_metadata(after)
            return after

        return dict(servers.change_mapping(server_id, checked, caller.requester))


def _tags(routes: APIRouter, service: ComputeService) -> None:
    servers = service.store.servers

    @routes.get("/tags")
    def list_tags(caller: ProjectCaller, version: Version, server_id: str) -> dict[str, Any]:
        _since(version, (2, 26))
        return {"tags": list(servers.get(server_id, caller.requester).tags)}

    @routes.put("/tags")
    def replace_tags(caller: ProjectCaller, version: Version, server_id: str, body: TagsBody) -> dict[str, Any]:
        _since(version, (2, 26))
        wanted = list(dict.fromkeys(body.tags))
        return {"tags": list(servers.change_tags(server_id, lambda _: wanted, caller.requester))}

    @routes.delete("/tags", status_code=204)
    def delete_tags(caller: ProjectCaller, version: Version, server_id: str) -> None:
        _since(version, (2, 26))
        servers.change_tags(server_id, lambda _: [], caller.requester)

    @routes.get("/tags/{tag}", status_code=204)
    def check_tag(caller: ProjectCaller, version: Version, server_id: str, tag: str) -> None:
        _since(version, (2, 26))
        if tag not in servers.get(server_id, caller.requester).tags:
            raise NotFound(f"Server {server_id} has no tag '{tag}'")

    @routes.put("/tags/{tag}")
    def add_tag(caller: ProjectCaller, version: Version, server_id: str, tag: Tag) -> Response:
        _since(version, (2, 26))
        known = servers.get(server_id, caller.requester).tags

        def added(tags: Sequence[str]) -> list[str]:
            after = list(dict.fromkeys([*tags, tag]))
            if len(after) > MAX_TAGS:
                raise BadRequest("tag", f"The number of tags exceeded the per-server limit {MAX_TAGS}")
            return after

        servers.change_tags(server_id, added, caller.requester)
        return Response(status_code=204 if tag in known else 201)

    @routes.delete("/tags/{tag}", status_code=204)
    def delete_tag(caller: ProjectCaller, version: Version, server_id: str, tag: str) -> None:
        _since(version, (2, 26))

        def without(tags: Any) -> list[str]:
            if tag not in tags:
                raise NotFound(f"Server {server_id} has no tag '{tag}'")
            return [known for known in tags if known != tag]

        servers.change_tags(server_id, without, caller.requester)


def _interfaces(routes: APIRouter, service: ComputeService) -> None:
    servers = service.store.servers

    @routes.get("/os-interface")
    def list_interfaces(caller: ProjectCaller, version: Version, server_id: str) -> dict[str, Any]:
        found = servers.interfaces(server_id, caller.requester)
        return {"interfaceAttachments": [_interface(item, version) for item in found]}

    @routes.get("/os-interface/{port_id}")
    def show_interface(caller: ProjectCaller, version: Version, server_id: str, port_id: str) -> dict[str, Any]:
        for item in servers.interfaces(server_id, caller.requester):
            if item.port_id == port_id:
                return {"interfaceAttachment": _interface(item, version)}
        raise NotFound(f"Instance {server_id} does not have a port with id {port_id}")

    @routes.post("/os-interface")
    def attach(caller: ProjectCaller, version: Version, server_id: str, body: InterfaceAttach) -> dict[str, Any]:
        action = body.interface
        if action.tag is not None:
            _since(version, (2, 49), field="interfaceAttachment.tag")
        if action.net_id and action.port_id:
            raise BadRequest("interfaceAttachment", "Must not input both network_id and port_id")
        if action.fixed_ips and not action.net_id:
            raise BadRequest("interfaceAttachment.fixed_ips", "Must input network_id when request IP address")
        fixed_ip = action.fixed_ips[0].ip_address if action.fixed_ips else None
        nic = NicRequest(network_id=action.net_id, port_id=action.port_id, fixed_ip=fixed_ip, tag=action.tag)
        return {"interfaceAttachment": _interface(servers.attach(server_id, nic, caller.requester), version)}

    @routes.delete("/os-interface/{port_id}", status_code=202)
    def detach(caller: ProjectCaller, server_id: str, port_id: str) -> Response:
        servers.detach(server_id, port_id, caller.requester)
        return Response(status_code=202)


def _addresses(routes: APIRouter, service: ComputeService) -> None:
    servers = service.store.servers

    @routes.get("/ips")
    def list_addresses(caller: ProjectCaller, server_id: str) -> dict[str, Any]:
        found = server_view.addresses(servers.get(server_id, caller.requester).addresses)
        return {"addresses": {name: _plain(listed) for name, listed in found.items()}}

    @routes.get("/ips/{network_name}")
    def addresses_on(caller: ProjectCaller, server_id: str, network_name: str) -> dict[str, Any]:
        found = server_view.addresses(servers.get(server_id, caller.requester).addresses)
        if network_name not in found:
            raise NotFound(f"Instance is not a member of specified network {network_name}")
        return {network_name: _plain(found[network_name])}

    @routes.get("/os-security-groups")
    def list_security_groups(caller: ProjectCaller, server_id: str) -> dict[str, Any]:
        requester = caller.requester
        project_id = servers.get(server_id, requester).project_id
        found = servers.security_groups(server_id, requester)
        return {"security_groups": [{**group, "tenant_id": project_id, "rules": []} for group in found]}

    @routes.get("/os-volume_attachments")
    def list_volumes(caller: ProjectCaller, server_id: str) -> dict[str, Any]:
        servers.get(server_id, caller.requester)
        return {"volumeAttachments": []}


def _server_password(routes: APIRouter, service: ComputeService) -> None:
    servers = service.store.servers

    @routes.get("/os-server-password")
    def show_password(caller: ProjectCaller, server_id: str) -> dict[str, Any]:
        return {"password": servers.password(server_id, caller.requester)}

    @routes.delete("/os-server-password", status_code=204)
    def clear_password(caller: ProjectCaller, server_id: str) -> None:
        servers.clear_password(server_id, caller.requester)


def _actions(routes: APIRouter, service: ComputeService) -> None:
    servers = service.store.servers

    @routes.get("/os-instance-actions")
    def list_actions(caller: ProjectCaller, version: Version, server_id: str) -> dict[str, Any]:
        found = servers.actions(server_id, caller.requester)
        return {"instanceActions": [_action(item, version) for item in found]}

    @routes.get("/os-instance-actions/{request_id}")
    def show_action(caller: ProjectCaller, version: Version, server_id: str, request_id: str) -> dict[str, Any]:
        for item in servers.actions(server_id, caller.requester):
            if item.request_id == request_id:
                return {"instanceAction": {**_action(item, version), "events": []}}
        raise NotFound(f"Action {request_id} of instance {server_id} could not be found.")


def _plain(listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"version": item["version"], "addr": item["addr"]} for item in listed]


def _interface(item: Interface, version: Microversion) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "port_state": item.status,
        "fixed_ips": [dict(fixed) for fixed in item.fixed_ips],
        "port_id": item.port_id,
        "net_id": item.network_id,
        "mac_addr": item.mac_address,
    }
    if version >= (2, 70):
        shown["tag"] = item.tag
    return shown


def _action(item: InstanceAction, version: Microversion) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "action": item.action,
        "instance_uuid": item.server_id,
        "request_id": item.request_id,
        "user_id": item.user_id,
        "project_id": item.project_id,
        "start_time": item.started_at.strftime("%Y-%m-%dT%H:%M:%S.%f"),
        "message": None,
    }
    if version >= (2, 58):
        shown["updated_at"] = shown["start_time"]
    return shown


def _since(version: Microversion, first: tuple[int, int], field: str | None = None) -> None:
    """Raises NotFound for a route, or BadRequest for a field, that the microversion does not have."""
    if version >= first:
        return
    sentence = f"is known from microversion {first[0]}.{first[1]} on, this is {version}"
    if field is not None:
        raise BadRequest(field, sentence)
    raise NotFound(f"This call {sentence}.")


ACCEPTED = 202

REMOVED_ACTIONS = frozenset({"addFloatingIp", "removeFloatingIp", "addFixedIp", "removeFixedIp"})
"""Nova's proxy actions for nova-network, which microversion 2.44 removed."""

UNSUPPORTED_ACTIONS = frozenset(
    {
        "changePassword", "confirmResize", "createBackup", "createImage", "evacuate", "injectNetworkInfo", "migrate",
        "os-getRDPConsole", "os-getSPICEConsole", "os-getSerialConsole", "os-getVNCConsole", "os-migrateLive",
        "os-resetState", "pause", "rescue", "resetNetwork", "resize", "restore", "resume", "revertResize", "shelve",
        "shelveOffload", "suspend", "trigger_crash_dump", "unpause", "unrescue", "unshelve",
    }
)  # fmt: skip
"""Actions of Nova that openimds does not implement (501)."""

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ActionRequest:
    server_id: str
    requester: Requester
    sees_all: bool
    """True if the response has the attributes of administrators."""
    version: Microversion
    name: str
    value: Any

    def parsed(self, model: type[Model]) -> Model:
        """Validates the action's value. Raises RequestValidationError, which names the field."""
        try:
            return model.model_validate(self.value if self.value is not None else {})
        except ValidationError as error:
            details = [{**one, "loc": ("body", self.name, *one["loc"])} for one in error.errors(include_input=False)]
            raise RequestValidationError(details) from error


def actions_router(service: ComputeService) -> APIRouter:
    routes = ServiceRouter()
    table = _table(service)

    @routes.post("/servers/{server_id}/action", status_code=ACCEPTED)
    def act(caller: ProjectCaller, version: Version, server_id: str, body: dict[str, Any]) -> Response:
        if len(body) != 1:
            raise BadRequest("body", "There should be exactly one action in the body: its name is the one key.")
        ((name, value),) = body.items()
        requester = caller.requester
        service.store.servers.get(server_id, requester)
        if name in REMOVED_ACTIONS:
            raise NotFound(f"The action {name} is gone from Nova since 2.44: ask the network service for it.")
        if name in UNSUPPORTED_ACTIONS:
            raise NotSupported(f"The action {name} is not supported: openimds does not {name} servers.")
        if name not in table:
            raise BadRequest("body", f"There is no such action: {name}")
        action = _ActionRequest(
            server_id=server_id,
            requester=requester,
            sees_all=caller.permits(policies.EXTENDED_ATTRIBUTES, {"project_id": caller.project_id}),
            version=version,
            name=name,
            value=value,
        )
        return table[name](action) or Response(status_code=ACCEPTED)

    return routes


def _table(service: ComputeService) -> dict[str, Callable[[_ActionRequest], Response | None]]:
    servers, power = service.store.servers, service.store.power

    def reboot(action: _ActionRequest) -> None:
        power.reboot(action.server_id, action.parsed(RebootFields).type.upper() == "HARD", action.requester)

    def console(action: _ActionRequest) -> Response:
        length = action.parsed(ConsoleFields).length
        output = servers.console(action.server_id, action.requester)
        return JSONResponse({"output": last_lines(output, length)})

    def rebuilt(action: _ActionRequest) -> Response:
        wanted = rebuild(action.parsed(RebuildFields), action.version)
        server = power.rebuild(action.server_id, wanted, action.requester)
        shown = server_view.full(server, service, action.version, admin=action.sees_all)
        location = service.links("servers", server.id)[0]["href"]
        return JSONResponse({"server": shown}, ACCEPTED, headers={"Location": location})

    def lock(action: _ActionRequest) -> None:
        if action.parsed(LockFields).locked_reason is not None:
            raise NotSupported("openimds keeps no reason for a lock: leave locked_reason out.")
        servers.set_locked(action.server_id, True, action.requester)

    def group(member: bool) -> Callable[[_ActionRequest], None]:
        def change(action: _ActionRequest) -> None:
            name = action.parsed(SecurityGroupRef).name
            servers.change_security_group(action.server_id, name, member, action.requester)

        return change

    return {
        "reboot": reboot,
        "os-stop": lambda action: power.stop(action.server_id, action.requester),
        "os-start": lambda action: power.start(action.server_id, action.requester),
        "rebuild": rebuilt,
        "lock": lock,
        "unlock": lambda action: servers.set_locked(action.server_id, False, action.requester),
        "forceDelete": lambda action: servers.delete(action.server_id, action.requester),
        "addSecurityGroup": group(True),
        "removeSecurityGroup": group(False),
        "os-getConsoleOutput": console,
    }


def last_lines(output: str, length: int | None) -> str:
    """The last `length` lines. All lines for None and -1."""
    if length is None or length < 0:
        return output
    return "".join(output.splitlines(keepends=True)[-length:]) if length else ""
