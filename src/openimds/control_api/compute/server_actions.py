"""`POST /servers/{id}/action`: one call, many verbs. One table of those that we do, one of those that Nova has besides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ValidationError

from openimds.control_api.compute import server_view
from openimds.control_api.compute.microversions import Microversion, Version
from openimds.control_api.compute.protocols import ComputeService
from openimds.control_api.compute.schemas import (
    ConsoleFields,
    LockFields,
    RebootFields,
    RebuildFields,
    SecurityGroupRef,
)
from openimds.control_api.compute.server_parsing import rebuild
from openimds.control_api.compute.servers import requester
from openimds.control_api.context import ProjectCaller
from openimds.resources.compute import Requester
from openimds.resources.errors import BadRequest, NotFound, NotSupported

ACCEPTED = 202

REMOVED_ACTIONS = frozenset({"addFloatingIp", "removeFloatingIp", "addFixedIp", "removeFixedIp"})
"""Nova's calls to nova-network, removed at 2.44; the network service does it."""

UNSUPPORTED_ACTIONS = frozenset(
    {
        "changePassword", "confirmResize", "createBackup", "createImage", "evacuate", "injectNetworkInfo", "migrate",
        "os-getRDPConsole", "os-getSPICEConsole", "os-getSerialConsole", "os-getVNCConsole", "os-migrateLive",
        "os-resetState", "pause", "rescue", "resetNetwork", "resize", "restore", "resume", "revertResize", "shelve",
        "shelveOffload", "suspend", "trigger_crash_dump", "unpause", "unrescue", "unshelve",
    }
)  # fmt: skip
"""What Nova can do and openimds cannot."""

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ActionRequest:
    server_id: str
    asker: Requester
    version: Microversion
    name: str
    value: Any

    def parsed(self, model: type[Model]) -> Model:
        """The action's value. Raises RequestValidationError, which names the field."""
        try:
            return model.model_validate(self.value if self.value is not None else {})
        except ValidationError as error:
            details = [{**one, "loc": ("body", self.name, *one["loc"])} for one in error.errors(include_input=False)]
            raise RequestValidationError(details) from error


def router(service: ComputeService) -> APIRouter:
    routes = APIRouter()
    table = _table(service)

    @routes.post("/servers/{server_id}/action", status_code=ACCEPTED)
    def act(caller: ProjectCaller, version: Version, server_id: str, body: dict[str, Any]) -> Response:
        if len(body) != 1:
            raise BadRequest("body", "There should be exactly one action in the body: its name is the one key.")
        ((name, value),) = body.items()
        asker = requester(caller)
        service.store.servers.get(server_id, asker)
        if name in REMOVED_ACTIONS:
            raise NotFound(f"The action {name} is gone from Nova since 2.44: ask the network service for it.")
        if name in UNSUPPORTED_ACTIONS:
            raise NotSupported(f"The action {name} is not supported: openimds does not {name} servers.")
        if name not in table:
            raise BadRequest("body", f"There is no such action: {name}")
        asked = _ActionRequest(server_id=server_id, asker=asker, version=version, name=name, value=value)
        return table[name](asked) or Response(status_code=ACCEPTED)

    return routes


def _table(service: ComputeService) -> dict[str, Callable[[_ActionRequest], Response | None]]:
    servers, power = service.store.servers, service.store.power

    def reboot(asked: _ActionRequest) -> None:
        power.reboot(asked.server_id, asked.parsed(RebootFields).type.upper() == "HARD", asked.asker)

    def console(asked: _ActionRequest) -> Response:
        length = asked.parsed(ConsoleFields).length
        output = servers.console(asked.server_id, asked.asker)
        return JSONResponse({"output": last_lines(output, length)})

    def rebuilt(asked: _ActionRequest) -> Response:
        wanted = rebuild(asked.parsed(RebuildFields), asked.version)
        server = power.rebuild(asked.server_id, wanted, asked.asker)
        shown = server_view.full(server, service, asked.version, admin=asked.asker.is_admin)
        location = service.links("servers", server.id)[0]["href"]
        return JSONResponse({"server": shown}, ACCEPTED, headers={"Location": location})

    def lock(asked: _ActionRequest) -> None:
        if asked.parsed(LockFields).locked_reason is not None:
            raise NotSupported("openimds keeps no reason for a lock: leave locked_reason out.")
        servers.set_locked(asked.server_id, True, asked.asker)

    def group(member: bool) -> Callable[[_ActionRequest], None]:
        def change(asked: _ActionRequest) -> None:
            name = asked.parsed(SecurityGroupRef).name
            servers.change_security_group(asked.server_id, name, member, asked.asker)

        return change

    return {
        "reboot": reboot,
        "os-stop": lambda asked: power.stop(asked.server_id, asked.asker),
        "os-start": lambda asked: power.start(asked.server_id, asked.asker),
        "rebuild": rebuilt,
        "lock": lock,
        "unlock": lambda asked: servers.set_locked(asked.server_id, False, asked.asker),
        "forceDelete": lambda asked: servers.delete(asked.server_id, asked.asker),
        "addSecurityGroup": group(True),
        "removeSecurityGroup": group(False),
        "os-getConsoleOutput": console,
    }


def last_lines(output: str, length: int | None) -> str:
    """The last `length` lines; all of them for None and -1."""
    if length is None or length < 0:
        return output
    return "".join(output.splitlines(keepends=True)[-length:]) if length else ""
